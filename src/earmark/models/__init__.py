"""The models that a configuration names: fetched once, checked, found on this machine.

May import the ground modules.
"""
