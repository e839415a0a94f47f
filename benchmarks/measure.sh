#!/bin/sh
# Takes all measurements of the README and of docs/, in about 20 minutes: on an idle machine, with the extras recipes and peers
# installed. Appends to benchmarks/results, then writes tables and pictures. `strop` is the one on the PATH.
# What is left to hand, as it takes longer: strop bench sweep --csv benchmarks/results/sweep.csv
set -eu
cd "$(dirname "$0")/.."
results=benchmarks/results

layer() {
  preset=$1 seconds=$2
  shift 2
  strop bench layer --preset "$preset" --seconds "$seconds" --csv $results/layer.csv "$@"
}

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

# What CPUs without AVX-512 do: strop and torch both limited to AVX2, where this one has more.
if python -c 'from strop.ops import native; raise SystemExit(native.missing is not None or native.isa() != "avx512")'; then
  layer zaremba-medium 20 --isa avx2
  layer zaremba-large 35 --isa avx2
  layer awd-lstm 60 --isa avx2
  layer nmt-luong 20 --isa avx2
  layer ner-bilstm 15 --isa avx2
  strop bench train --preset zaremba-medium --seconds 25 --isa avx2 --csv $results/train.csv
  strop bench train --preset zaremba-large --seconds 35 --isa avx2 --csv $results/train.csv
  strop bench peers --peers eager --seconds 10 --isa avx2 --csv $results/peers.csv
fi

strop bench tables README.md docs/benchmarks.md docs/choosing-p.md
