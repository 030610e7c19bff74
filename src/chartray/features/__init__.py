"""EHR variables of a cohort -> numbers and an observed mask: the 23 sets, chart rows, the published csv files."""

from chartray.features.chart import Chart, ChartBlock, ChartRows, Encoding, fit_chart, refuse_shared_columns
from chartray.features.published_csv import FeatureFiles, write_feature_csvs
from chartray.features.sets import FEATURE_SETS, FeatureSet

__all__ = [
    "FEATURE_SETS",
    "Chart",
    "ChartBlock",
    "ChartRows",
    "Encoding",
    "FeatureFiles",
    "FeatureSet",
    "fit_chart",
    "refuse_shared_columns",
    "write_feature_csvs",
]
