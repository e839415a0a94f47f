"""Structured dropout that makes recurrent networks train faster."""
