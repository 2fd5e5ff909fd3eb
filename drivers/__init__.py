"""The instrument: its words, its contract and its hardware.

The ground floor of the house. Needs numpy, pint, pydantic and PyYAML; never torch.
"""
