"""The backend for NVIDIA GPUs, in Triton: ``products`` and ``recurrence`` as the other backends have them.

Nothing here is imported before it is used, so strop works without Triton. With ``TRITON_INTERPRET=1`` set
before Triton is imported the kernels run on CPU tensors, slowly, in Triton's interpreter: so they are tested
where there is no GPU.
"""
