// Cases worth a look, as links.

export const EXAMPLES = [
  ["3×3, 8 → 32: 328 parameters beside 2,304", "#kind=separable&n=20x20&c=8&m=1&f=32&k=3x3&s=1&d=1&p=VALID&view=forward"],
  ["The gradient of a pixel that stride 2 reads once, twice or four times", "#kind=strided&n=8x8&c=1&f=1&k=3x3&s=2&d=1&p=SAME&g=1&view=input_grad&at=4,4"],
  ["Pixels that a stride skips have gradient 0", "#kind=strided&n=7x7&c=1&f=1&k=2x2&s=3&d=1&p=VALID&g=1&view=input_grad&at=2,2"],
  ["The gradient of one weight sums over all outputs", "#kind=standard&n=6x6&c=2&f=2&k=3x3&s=1&d=1&p=VALID&g=1&view=filter_grad&at=0,2"],
  ["Why transposed convolutions draw checkerboards", "#kind=transposed&n=4x4&c=1&f=1&k=3x3&s=2&d=1&p=VALID&op=0&g=1&view=forward&at=4,4"],
  ["WaveNet: taps 4 steps apart, none in the future", "#kind=causal&n=16&c=1&f=1&k=2&s=1&d=4&g=1&view=forward&at=9"],
  ["An even kernel: SAME pads more at the end", "#kind=standard&n=6x6&c=1&f=1&k=4x4&s=1&d=1&p=SAME&g=1&view=forward&at=0,0"],
  ["A circular border: the input repeats", "#kind=standard&n=6x6&c=1&f=1&k=3x3&s=1&d=1&p=CIRCULAR&g=1&view=forward&at=0,0"],
]; // prettier-ignore
