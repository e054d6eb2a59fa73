"""One job for every modality: tasks scored sample by sample, summed up as value ± interval, reported."""

from anyformer.evaluation.comparison import Comparison, compare, comparison_table
from anyformer.evaluation.job import evaluate
from anyformer.evaluation.report import Report, Result, SampleScore

__all__ = ["Comparison", "Report", "Result", "SampleScore", "compare", "comparison_table", "evaluate"]
