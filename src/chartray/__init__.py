"""Chartray pretrains chest X-ray encoders with the patient's chart, and proves what the chart was worth.

One alphabet of dimensions: B films of a batch, V anchor views, N patches, D encoder width, P projection width,
K prototypes, F chart features, C labels, S store size in pixels, H and W height and width of a film.
"""
