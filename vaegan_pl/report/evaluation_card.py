"""The model card with the metrics of an evaluation."""

from vaegan_pl.evaluation.evaluation import Evaluation
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.report import model_card
from vaegan_pl.report.evaluation_table import table
from vaegan_pl.report.evaluation_words import if_shared, not_tried, sentences


def card(one: Evaluation, reference: Reference) -> str:
    """The card of a model in Markdown, for anyone who is given the file."""
    content = table([one], reference)
    rows = [content.columns, ["---"] * len(content.columns), *content.rows]
    claims = [f"- **{claim}**: {words}" for claim, words in sentences(one, reference).items()]
    return model_card.text(
        one.path,
        one.model,
        [
            *claims,
            "",
            *(f"- **{what}**: {words}." for what, words in if_shared(one).items()),
            f"- {not_tried(one)}",
            "",
            *("| " + " | ".join(map(str, row)) + " |" for row in rows),
            "",
            f"Features: {reference.space}. In brackets: 95 % intervals. {reference.compared} images of each set are "
            f"compared.",
        ],
    )
