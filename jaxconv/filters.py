"""Fixed filter banks: Sobel, Scharr, Laplacian and Gaussian, applied to every channel."""

from ._src.functions.filters import apply as apply
from ._src.functions.filters import edges as edges
from ._src.functions.filters import gaussian as gaussian
from ._src.functions.filters import laplacian as laplacian
from ._src.functions.filters import scharr as scharr
from ._src.functions.filters import sobel as sobel
