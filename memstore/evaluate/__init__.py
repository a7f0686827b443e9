"""Evaluation: scores answers, and the pages they come from, by KILT's metrics."""

from memstore.evaluate.bootstrap import Estimate
from memstore.evaluate.score import QuestionScores, ScoreReport, score_files, score_questions
from memstore.questions.files import Gold, GoldQuestion, PageKey, Prediction, align, read_gold, read_predictions
from memstore.questions.metrics import accuracy, exact_match, f1, normalise_answer, rouge_l

__all__ = [
    "Estimate",
    "Gold",
    "GoldQuestion",
    "PageKey",
    "Prediction",
    "QuestionScores",
    "ScoreReport",
    "accuracy",
    "align",
    "exact_match",
    "f1",
    "normalise_answer",
    "read_gold",
    "read_predictions",
    "rouge_l",
    "score_files",
    "score_questions",
]
