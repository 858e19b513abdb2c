"""What makes and takes away deployments and endpoints: create, adopt, share a host, remove, restore, mend, sweep.

May import moving, reading and what all use-cases share. Never in here: how weights move (moving), or when (driving).
"""
