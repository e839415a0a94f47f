#!/bin/sh
# Takes all measurements of the README and of docs/, in about 15 minutes: on an idle machine, with the extras recipes and peers
# installed. Appends to benchmarks/results, then writes tables and pictures. `strop` is the one on the PATH.
# What is left to hand, as it takes longer: strop bench sweep --csv benchmarks/results/sweep.csv
set -eu
cd "$(dirname "$0")/.."
results=benchmarks/results

layer() { strop bench layer --preset "$1" --seconds "$2" --csv $results/layer.csv; }

layer zaremba-medium 20
layer zaremba-large 35
layer awd-lstm 60
layer nmt-luong 20
layer ner-bilstm 15
if python -c 'from strop.ops import native; raise SystemExit(not native.has_bf16)'; then
  for preset in zaremba-medium zaremba-large awd-lstm nmt-luong ner-bilstm; do
    strop bench layer --bf16 --preset $preset --seconds 15 --csv $results/layer-bf16.csv
  done
fi
strop bench train --preset zaremba-medium --seconds 25 --csv $results/train.csv
strop bench train --preset zaremba-large --seconds 35 --csv $results/train.csv
strop bench train --preset ner-targer --seconds 15 --csv $results/train.csv
strop bench train --preset nmt-luong --seconds 25 --csv $results/train.csv
strop bench keep --preset zaremba-medium --seconds 5 --csv $results/keep.csv
strop bench keep --preset zaremba-large --seconds 12 --csv $results/keep.csv
strop bench peers --seconds 20 --csv $results/peers.csv

# The code for CPUs without AVX-512, where there is AVX2; torch's side uses what the CPU has.
if STROP_ISA=avx2 python -c 'from strop.ops import native; raise SystemExit(native.missing is not None)'; then
  export STROP_ISA=avx2
  layer zaremba-medium 20
  layer zaremba-large 25
  strop bench peers --peers eager --seconds 10 --csv $results/peers.csv
  unset STROP_ISA
fi

strop bench tables README.md docs/benchmarks.md docs/choosing-p.md
