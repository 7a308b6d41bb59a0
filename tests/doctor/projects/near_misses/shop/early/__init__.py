from . import chained
