"""Write problems whose gold answers need computer algebra, and the words to train on them."""

import json
from pathlib import Path

from passk.config.schema import ConventionsConfig, EvalConfig
from passk.data.problems import load_data

FORMULA = r"\frac{{{}\sqrt{{8}}}}{{2\sqrt{{2}}}}"  # the number, as only algebra can tell


def formulas(folder: Path, num_hanging: int) -> tuple[str, ...]:
    """Write problems of the embedded task into `folder`; the first `num_hanging` take for ever.

    Return the words of a command that trains on them.
    """
    sizes = ConventionsConfig(name="conventions", num_train=12, num_corpus=12)
    data = load_data(sizes, EvalConfig(num_problems=8))
    for split, problems in (("train", data.train), ("eval", data.heldout)):
        rows = [
            {"prompt": p.prompt, "id": p.id, "answer": FORMULA.format(p.answer)} for p in problems
        ]
        for row in rows[: num_hanging if split == "train" else 0]:
            row["answer"] = "9^{9^{9^{9}}}"
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    words = ("data=jsonl", f"data.path={folder}/train.jsonl", f"data.eval_path={folder}/eval.jsonl")
    words += ("verifier=math", "verifier.num_workers=2", "rollout.max_new_tokens=32")
    return (*words, "data.check_gold=false", "learner.lr=1e-3", "rollout.num_prompts=12")
