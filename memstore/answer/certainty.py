"""How sure one may be of an answer: its features, of the reader's tokens and the passages, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memstore.answer.citations import Citation, citations, question_words
from memstore.answer.values import Answer, Question, Usage
from memstore.confidence.calibration import Calibration, plain
from memstore.confidence.features import Evidence, Features, features
from memstore.decode.steps import Decoded
from memstore.passage import RankedPassage


def features_of(
    question: Question,
    decoded: Decoded,
    passages: Sequence[RankedPassage],
    cited: Sequence[Citation],
    *,
    verdict: bool = False,
) -> Features:
    """The features of an answer, from passages in reranked order and the places of the answer in them."""
    holding = {one.passage_id for one in cited}
    kept = [one.passage for one in passages if one.kept]
    held = [passage.id in holding for passage in kept]
    best = next((passage for passage, holds in zip(kept, held, strict=True) if holds), kept[0] if kept else None)
    read = "" if best is None else f"{best.title} {best.text}"
    evidence = Evidence(
        log_probs=decoded.log_probs,
        runner_up=decoded.runner_up,
        scores=[one.rerank_score for one in passages if one.rerank_score is not None],
        places=[one.retrieval_rank for one in passages if one.retrieval_rank is not None],
        retrieval_scores=[one.retrieval_score for one in passages if one.retrieval_score is not None],
        held=held,
        verdict=verdict,
        question_words=question_words(question.text, read),
    )
    return features(evidence)


@dataclass(frozen=True, slots=True)
class Judge:
    """What confidence is from: a model's calibration, if it has one, and its verdicts, such as SUPPORTS. A verdict
    proves nothing by standing in a passage.
    """

    calibration: Calibration | None = None
    verdicts: frozenset[str] = frozenset()


def judged(
    question: Question,
    text: str,
    decoded: Decoded,
    passages: tuple[RankedPassage, ...],
    usage: Usage,
    *,
    by: Judge,
) -> Answer:
    """The answer with its confidence; without its text where that is lower than asked for."""
    verdict = text in by.verdicts
    cited = () if verdict else citations(text, passages)
    found = features_of(question, decoded, passages, cited, verdict=verdict)
    confidence = plain(decoded.score) if by.calibration is None else by.calibration.confidence(found)
    known = confidence >= question.min_confidence
    least = f"{question.min_confidence:g}"
    return Answer(
        text=text if known else None,
        score=decoded.score,
        passages=passages,
        usage=usage,
        confidence=confidence,
        calibrated=by.calibration is not None,
        reason=None if known else f"not sure enough: a confidence of {confidence:.3f}, and {least} is asked for",
        citations=cited if known else (),
        features=found,
        lowered=question.lowered,
        cut=not decoded.finished,
    )
