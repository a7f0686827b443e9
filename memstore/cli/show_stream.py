"""What `memstore ask --stream` prints while an answer is made. Takes the same plain values that `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from memstore.cli.app import print_result
from memstore.cli.show import UNTRAINED, PlainConsole, Values, show_answer, show_rest_of_answer


class StreamShown:
    """Prints an answer as it arrives: for people its text, piece by piece, or one JSON object for each event."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._text = as_json, ""

    def event(self, name: str, values: dict[str, Any]) -> None:
        """An event, as a server names it."""
        print_result({"event": name, **values}, self._as_json, self._show)

    def _show(self, event: Values) -> None:
        console = PlainConsole()
        match event["event"]:
            case "retrieved":
                console.print(f"{len(event['passages'])} passages found")
            case "token":
                console.print(event["text"] if self._text else f"answer: {event['text']}", end="")
                self._text += event["text"]
            case "done" if self._text == event["answer"] and self._text:
                show_rest_of_answer(event)
                if not event["model"]["trained"]:
                    console.print(UNTRAINED, style="yellow")
            case "done":  # nothing was written, or it turned out otherwise
                console.print("\n" if self._text else "", end="")
                show_answer(event)

    # --- of an answer that is made in this process: as a listener ---

    def retrieved(self, passages: Sequence[Any]) -> None:
        """See `memstore.answer.Listener`."""
        self.event("retrieved", {"passages": [passage_values(one) for one in passages]})

    def ranked(self, passages: Sequence[Any]) -> None:
        """See `memstore.answer.Listener`."""
        self.event("ranked", {"passages": [passage_values(one) for one in passages]})

    def wrote(self, text: str) -> bool:
        """See `memstore.answer.Listener`."""
        if text:
            self.event("token", {"text": text})
        return True

    def wanted(self) -> bool:
        """See `memstore.answer.Listener`: whoever reads the terminal ends the process."""
        return True


def passage_values(ranked: Any) -> dict[str, Any]:
    """A ranked passage as a reply has it."""
    values: dict[str, Any] = asdict(ranked)
    return {**values.pop("passage"), **values}
