#!/usr/bin/env bash
# av 18.1.0 (PyAV with its own FFmpeg): a video of one channel, such as depth or infrared, encoded as gray or gray10le.
#
# Good guess: what was written with one channel is told by the pixel format of what is read, so a reader can refuse, or
# treat apart, everything that is called gray...
# Behaviour: that holds for HEVC and FFV1. H.264 written by libx264 from gray or gray10le reads as yuv420p or yuv420p10le,
# from the container and from decoded frames alike: nothing but the data set's own metadata tells it from colour.
set -euo pipefail
VERSION=18.1.0
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "av==$VERSION" "numpy==2.4.6"
cat >"$folder/show.py" <<'PYTHON'
import av
import numpy as np

for codec, pixels in (("libx264", "gray"), ("libx264", "gray10le"), ("libx265", "gray10le"), ("ffv1", "gray10le")):
    with av.open("depth.mkv", "w") as file:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = file.add_stream(codec, rate=20, options=quiet)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        for number in range(6):
            depth = np.full((64, 96), 5000 * number, np.uint16)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(depth, format="gray16le").reformat(format=pixels)))
        file.mux(stream.encode(None))
    with av.open("depth.mkv") as file:
        stream = file.streams.video[0]
        frame = next(file.decode(stream))
        print(f"{codec} {pixels}: stream {stream.codec_context.pix_fmt}, frame {frame.format.name}")
PYTHON
found=$(cd "$folder" && venv/bin/python show.py 2>/dev/null)
echo "$found"
expected='libx264 gray: stream yuv420p, frame yuv420p
libx264 gray10le: stream yuv420p10le, frame yuv420p10le
libx265 gray10le: stream gray10le, frame gray10le
ffv1 gray10le: stream gray10le, frame gray10le'
[ "$found" = "$expected" ] || { echo "av $VERSION behaves otherwise than written here" >&2; exit 1; }
