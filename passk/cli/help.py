"""Texts that `passk --help` and `passk COMMAND --help` print."""

from passk import __version__

SUMMARIES = {
    "train": "one run: roll out, judge, learn, evaluate     passk train regime=hybrid",
    "eval": "samples and tables of any model               passk eval model.path=... data=math",
    "reproduce": "SFT, then RL regimes from it; report          passk reproduce seeds=3",
    "report": "tables, plots and one HTML page over runs     passk report DIR...",
    "compare": "Pass@k of two runs, at all k at once         passk compare A B",
    "diagnose": "which prompts interfere, from which k on      passk diagnose run=DIR",
    "filter": "the training problems without those          passk filter run=DIR",
    "export": "a model folder with its card, to publish      passk export run=DIR",
    "toy": "the paper's bandit: its numbers and figures   passk toy toy.k=5",
    "explain": "the weight an objective puts on a prompt      passk explain regime=hybrid",
    "sweep": "how the cells of a sweep stand                passk sweep status DIR",
}
_COMMAND_LINES = "".join(f"  {name:<10} {summary}\n" for name, summary in SUMMARIES.items())
HELP = f"""passk {__version__}: what does optimising Pass@k do to Pass@1, and on which prompts?

usage: passk <command> [key=value ...] [-m]

{_COMMAND_LINES}
  passk <command> --help      the configuration groups and keys of a command
  passk <command> --cfg job   the resolved configuration, nothing run
  passk <command> hydra.run.dir=DIR --resume
                              go on with an interrupted train, eval, reproduce or filter
  passk train -m regime=hybrid regime.k=2,4,8 regime.pass1_weight=0.5,0.7,0.9
  passk completion bash       a script that lets the Tab key complete all this; or zsh, fish
  passk --version
"""
COMMAND_HELP = """passk {command}: {summary}

{groups}Keys and their defaults, changed as key=value:

{keys}
Flags: -m sweeps over comma-separated values; --cfg job prints the resolved configuration;
hydra.run.dir=DIR names the run directory. Examples and files: docs/reference/commands.md."""

SWEEP_HELP = """passk sweep status DIR: how the cells of a sweep stand, while it runs or later

DIR is the directory that passk train -m names. A cell is waiting, running, interrupted (the same
line again goes on with it), failed (the same line tries it again) or finished. Keys of passk train:

  sweep.num_parallel=N   cells at a time on this machine, each with its share of the GPUs
  sweep.retries=N        further attempts at a cell that failed, but not for bad input
  hydra/launcher=...     submitit_slurm, submitit_local: docs/guide/sweeps.md
"""
