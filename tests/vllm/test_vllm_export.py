"""vLLM takes an exported folder as it is, by the lines of its model card."""

import json
import re
import subprocess
import sys

from small_runs import train
from transformers import AutoModelForCausalLM, AutoTokenizer

from passk.cli.main import main

PROMPTS = ["T3+4*5=", "C12+9*8=", "T37+48+59=", "C7+2*2="]
GREEDY = f"""
import json
sampled = [answer.text for answer in output.outputs]
outputs = llm.generate({PROMPTS}, SamplingParams(temperature=0, max_tokens=32))
print(json.dumps([sampled, [output.outputs[0].text for output in outputs]]))
"""


def test_the_card_s_lines_run_and_greedy_answers_are_those_of_transformers(tmp_path):
    run, folder = tmp_path / "run", tmp_path / "model"
    words = ("train.num_steps=1", "diagnostics.every=0", "eval.every=0", "rollout=torch")
    assert train(run, *words) == 0
    assert main(["export", f'run="{run}"', f'out="{folder}"']) == 0
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    # A test machine's share of memory, and no time for compilation.
    settings = f'"{folder}", gpu_memory_utilization=0.2, enforce_eager=True'
    code = code.replace('"FOLDER"', settings).replace('"..."', f'"{PROMPTS[0]}"')
    done = subprocess.run(
        [sys.executable, "-c", code + GREEDY], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    sampled, greedy = json.loads(done.stdout.splitlines()[-1])

    assert len(sampled) == 8 and len(set(sampled)) > 1
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, answer in zip(PROMPTS, greedy, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)[0]
        assert tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True) == (
            answer
        )
