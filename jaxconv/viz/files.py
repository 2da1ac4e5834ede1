"""Writing figures and animations to files, in the format that the file's suffix names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import CARD, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_DPI = 130
MOVIE_DPI = 100
# Pillow's name of each image format with frames, and matplotlib's name of each movie writer.
ANIMATED_IMAGES = {".gif": "GIF", ".png": "PNG", ".apng": "PNG", ".webp": "WEBP"}
MOVIE_WRITERS = {".html": "html", ".mp4": "ffmpeg"}
WRITER_OPTIONS = {"html": {"embed_frames": True, "embed_limit": math.inf}, "ffmpeg": {}}


def save(drawn: Figure, path: str | os.PathLike) -> Path:
    """Writes a figure to a file, all at once, so that readers never see half of it.

    Args:
        drawn: A figure of this package.
        path: The file to write; an existing one is replaced. Its suffix is the format: ``.png``,
            ``.svg``, ``.pdf``, ``.jpg`` or another one that matplotlib supports.

    Returns:
        ``path`` as a ``pathlib.Path``.

    Raises:
        ValueError: ``path`` has no suffix, or matplotlib does not support it.
        OSError: ``path`` cannot be written.

    >>> import tempfile, numpy as np, jaxconv.viz
    >>> drawn = jaxconv.viz.sliding(np.arange(16).reshape(4, 4), np.ones((3, 3)), padding="VALID")
    >>> save(drawn, tempfile.mkdtemp() + "/sliding.svg").name
    'sliding.svg'
    """
    formats = drawn.canvas.get_supported_filetypes()
    suffix = check_suffix("save", path, [f".{name}" for name in formats])
    return write_file(path, lambda part: drawn.savefig(part, format=suffix[1:], dpi=FIGURE_DPI))


def animation_suffix(path: str | os.PathLike) -> str:
    """The suffix of an animation's file, if Pillow or matplotlib can write that format here."""
    require_matplotlib()
    from matplotlib.animation import writers
    from PIL import Image  # matplotlib needs it as well

    Image.init()
    images = [suffix for suffix, name in ANIMATED_IMAGES.items() if name in Image.SAVE_ALL]
    movies = [suffix for suffix, name in MOVIE_WRITERS.items() if writers.is_available(name)]
    suffix = Path(path).suffix.lower()
    hint = "; .mp4 needs ffmpeg, which is not installed" if suffix == ".mp4" else ""
    return check_suffix("animate", path, images + movies, hint)


def save_animation(frames: Sequence[np.ndarray], path: str | os.PathLike, seconds: float) -> Path:
    """Writes frames ``[height, width, 3]`` of bytes, each shown for so many seconds, in a loop."""
    suffix = animation_suffix(path)
    write = _write_images if suffix in ANIMATED_IMAGES else _write_movie
    return write_file(path, lambda part: write(frames, part, suffix, seconds))


def check_suffix(
    function: str, path: str | os.PathLike, supported: Iterable[str], hint: str = ""
) -> str:
    """The suffix of ``path`` in lower case, if it is supported."""
    supported, suffix = sorted(supported), Path(path).suffix.lower()
    if suffix not in supported:
        raise ValueError(
            f"{function}: path must end in one of {', '.join(supported)}, which selects the "
            f"format, but got {os.fspath(path)!r}{hint}"
        )
    return suffix


def _write_images(frames: Sequence[np.ndarray], path: Path, suffix: str, seconds: float) -> None:
    from PIL import Image

    first, *rest = map(Image.fromarray, frames)
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
    if suffix == ".webp":
        options["lossless"] = True
    format = ANIMATED_IMAGES[suffix]
    first.save(path, format=format, duration=int(1000 * seconds), **options)


def _write_movie(frames: Sequence[np.ndarray], path: Path, suffix: str, seconds: float) -> None:
    from matplotlib.animation import writers
    from matplotlib.figure import Figure

    name = MOVIE_WRITERS[suffix]
    options: dict[str, Any] = {"fps": 1 / seconds, **WRITER_OPTIONS[name]}
    writer = writers[name](**options)
    height, width = frames[0].shape[:2]
    drawn = Figure((width / MOVIE_DPI, height / MOVIE_DPI), dpi=MOVIE_DPI, facecolor=CARD)
    shown = drawn.figimage(frames[0])
    with writer.saving(drawn, path, MOVIE_DPI):
        for frame in frames:
            shown.set_data(frame)
            writer.grab_frame()


def write_file(path: str | os.PathLike, writer: Callable[[Path], object]) -> Path:
    """Calls ``writer`` with a temporary path beside ``path``, and then renames that file.

    Raises:
        OSError: ``path`` cannot be written; the error names it, not the temporary path.
    """
    path = Path(path)
    # The suffix comes last because matplotlib's writers of movies look at it.
    partial = path.with_name(f"{path.name}.tmp{path.suffix.lower()}")
    try:
        partial.touch()  # ffmpeg would not say why it cannot write
        writer(partial)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
    return path
