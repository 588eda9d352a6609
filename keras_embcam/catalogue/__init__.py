"""Catalogues that outgrow a machine, explained part by part on Ray Data."""

from keras_embcam.catalogue.driver import CatalogueCounts, explain_catalogue

__all__ = ["CatalogueCounts", "explain_catalogue"]
