#!/usr/bin/env bash
# One flipped bit in a header of a tar shard, and every sample behind it is gone from training without an error.
#
# A guess would be that the reader raises: the header carries a checksum, and the checksum is wrong. Python's tarfile
# raises for a bad first header alone; a bad one further on ends the iteration as if the archive ended there, and
# webdataset, which reads through it, goes on to the next shard. GNU tar resumes at the next header, and exits with 2.
# So count what a shard gives, or compare where the headers end with where the file ends.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet webdataset==1.0.2 numpy==2.4.6 braceexpand==0.1.7 PyYAML==6.0.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import tarfile

import webdataset

with webdataset.TarWriter("whole.tar") as writer:
    for number in range(10):
        writer.write({"__key__": f"{number:04d}", "txt": f"caption {number}"})
with tarfile.open("whole.tar") as tar:
    third = tar.getmembers()[2]
shard = bytearray(open("whole.tar", "rb").read())
shard[third.offset] ^= 1  # the first letter of its header
open("damaged.tar", "wb").write(shard)

with tarfile.open("damaged.tar") as tar:
    names = tar.getnames()
keys = [sample["__key__"] for sample in webdataset.WebDataset("damaged.tar", shardshuffle=False)]
print(f"python {sys.version.split()[0]}, webdataset {webdataset.__version__}")
print("expected: an error about the checksum, or nine samples of ten")
print(f"observed: no error; tarfile lists {len(names)} members, webdataset yields {len(keys)} samples: {keys}")
sys.exit(0 if len(names) == 2 and keys == ["0000", "0001"] else 1)
PYTHON
