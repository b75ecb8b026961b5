"""Fill the frames between two pictures, and show the whole as a GIF: python examples/join_two_pictures.py [OUT.gif]"""

import sys
from pathlib import Path

from mutoscope import Request, load
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import sample

out = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/joined.gif")
system = load()
frames = render(sample(5, count=1))  # or pictures of your own, of the model's size
last = len(frames) - 1
request = Request("a thing moves", given={0: frames[0], last: frames[last]}, steps=15)
(video,) = system.generate([request])
video.save(out)
print(out)
