"""Schemes that draw a network's first weights: what ``init._target_`` names, and what calls it.

A scheme for a network takes the network and a generator on the CPU that belongs to the member's ``init`` stream, and
changes the weights in place. A scheme for a tensor takes (module, name, tensor, generator): the module that owns the
parameter, the parameter's full name, what is to be filled in place, and the generator.
"""

from seedvote.initialization.member import initial_model
from seedvote.initialization.rules import by_rules
from seedvote.initialization.unit_variance import lsuv
from seedvote.initialization.whole import default, everywhere

__all__ = ["by_rules", "default", "everywhere", "initial_model", "lsuv"]
