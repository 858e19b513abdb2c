"""Figures that stand on another source, or that a package of others brings: KPIs, measures of streams, installed sources.

May import what adapters may. Never in here: which series there are (core.analysis.measures names them).
"""
