"""Tasks in arithmetic of a few bits, or whose workers may send only a few: any task becomes one."""

from few_bits.tasks import compressed_exchange as compressed_exchange
from few_bits.tasks import fake_quantize as fake_quantize
from few_bits.tasks import low_precision as low_precision
