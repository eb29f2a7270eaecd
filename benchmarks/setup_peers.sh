#!/usr/bin/env bash
# Makes .venv-peers: the libraries that benchmarks/ and the fixtures of tests/ compare with, at pinned versions.
# They need older versions of shared dependencies, so they never share an environment with this project.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-peers
torch=$(grep '^torch==' constraints.txt)
[ -d "$venv" ] || python3 -m venv "$venv"
pip="$venv/bin/python -m pip --quiet --disable-pip-version-check"

constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
echo "$torch" > "$constraint"
$pip install -c "$constraint" "$torch"
$pip install -c "$constraint" "sae-lens==6.54.12" "eai-sparsify==1.3.3"
# dictionary-learning asks for nnsight and a torchvision built for CUDA; its trainers need neither
$pip install --no-deps "dictionary-learning==0.1.0"
"$venv/bin/python" -c "import sae_lens, sparsify; print('sae-lens', sae_lens.__version__)"
echo "peers are ready in $venv"
