"""Make the token ids of a pair: BOS + context + separator + prompt + response, as the paper means it or as released.

In: tokenizer, IconConfig.  Out: context prefixes, and assessment rows with the place where scoring starts.
Source: arXiv 2505.05327; released scoring scripts (repository RICo_Data_Selection_for_Instruction-Tuning, e4645c8).
The released layout tokenises each text with special tokens and drops the first id of each but the first text:
right for a tokenizer that adds BOS, a lost token for one that doesn't (D3). Its label mask counts the dropped ids, so
that scoring starts one token late for each (D1), and rows without any scored token give NaN (D2).
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from icon_repro.data.prompts import scoring_prompt
from icon_repro.data.rows import Example
from icon_repro.lm.tokens import Encoded, TokenError, bos_ids, encode, text_ids
from icon_repro.methods.icon.options import EmptyPair, IconConfig


@dataclass(frozen=True)
class Row:
    """An assessment row as it follows a context, and as it stands alone; None where no token would be scored."""

    after_context: Encoded | None
    alone: Encoded | None


class Layout:
    """Builds ids for one tokenizer and one IconConfig."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cfg: IconConfig) -> None:
        self.tokenizer, self.cfg = tokenizer, cfg
        self.bos = bos_ids(tokenizer)

    def context(self, text: str) -> tuple[list[int], int]:
        """Ids of a context with its BOS, cut to ``max_context_tokens``; and how many tokens were cut."""
        if self.cfg.drop_first_token:  # there the limit covers the BOS
            return self._special(text, self.cfg.max_context_tokens)
        ids, cut = text_ids(self.tokenizer, text, self.cfg.max_context_tokens)
        return self.bos + ids, cut

    def separator(self) -> list[int]:
        """Ids between context and prompt."""
        if self.cfg.drop_first_token:
            return self._special(self.cfg.separator)[0][1:]
        return text_ids(self.tokenizer, self.cfg.separator)[0]

    def row(self, example: Example) -> Row:
        """Ids of an assessment row, cut to the limits.

        Raises:
            TokenError: a response without a scored token, unless ``empty_pairs`` is nan; a prompt without tokens where
                no BOS stands before it.
        """
        if self.cfg.drop_first_token:
            prompt, prompt_cut = self._special(scoring_prompt(example), self.cfg.max_prompt_tokens)
            response, response_cut = self._special(example.response, self.cfg.max_response_tokens)
            cut = prompt_cut + response_cut
            after = Encoded(prompt[1:] + response[1:], len(prompt[1:]), cut)
            alone = Encoded(prompt + response[1:], len(prompt), cut)
        else:
            after = encode(
                self.tokenizer,
                scoring_prompt(example),
                example.response,
                max_prompt_tokens=self.cfg.max_prompt_tokens,
                max_answer_tokens=self.cfg.max_response_tokens,
                name=f"assessment row {example.id}",
            )
            alone = Encoded(self.bos + after.ids, len(self.bos) + after.answer_start, after.cut)
        if not alone.answer_start:
            raise TokenError(f"assessment row {example.id}: the prompt has no tokens and the tokenizer adds no BOS.")
        if self.cfg.skip_first_tokens:
            # one for each of separator and prompt whose first id the mask counts though it was dropped
            skipped = sum(bool(self._special(text)[0]) for text in (self.cfg.separator, scoring_prompt(example)))
            after = Encoded(after.ids, after.answer_start + skipped, after.cut)
        return Row(self._scored(example, after), self._scored(example, alone))

    def _scored(self, example: Example, row: Encoded) -> Encoded | None:
        if row.answer_tokens > 0:
            return row
        if self.cfg.empty_pairs is EmptyPair.nan:
            return None
        raise TokenError(
            f"assessment row {example.id}: no token of response {example.response!r} would be scored. Drop the row, or "
            "set empty_pairs=nan to leave its pairs out of the mean, as the released scripts do."
        )

    def _special(self, text: str, limit: int | None = None) -> tuple[list[int], int]:
        """Ids with the tokenizer's special tokens, at most ``limit`` of all of them; and how many were cut."""
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if limit is None or len(ids) <= limit:
            return list(ids), 0
        return list(self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]), len(ids) - limit
