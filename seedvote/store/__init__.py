"""The directory of runs: the only package that reads or writes ``checkpoints/``.

    checkpoints/<run>/
      run.json               recipe, its hash, classes, data fingerprint, commit, versions
      preprocessing.safetensors       what was fitted on the training split, where the recipe has a preprocessing
      seed-0007/
        model.safetensors    weights and buffers
        member.json          seed, status, history, device, seconds, SHA-256 of the weights
        state.safetensors    while it trains: what going on from here needs
        logits-test.safetensors         what the member said about a split, kept so as not to ask it twice
        logits-validation.safetensors   (see ``seedvote.logits``); may be deleted at any time

A member is there once its ``member.json`` is: that file is written last. No pickle is written or read.
"""

from seedvote.store.keeper import RunKeeper, is_claimed, set_damaged_aside
from seedvote.store.members import check_member, read_member, read_weights, write_member
from seedvote.store.preprocessing import unusable
from seedvote.store.records import MemberRecord, RunRecord
from seedvote.store.run import Run, find_run, open_run, read_preprocessing, read_run, recipe_hash
from seedvote.store.snapshots import read_snapshot, unsaveable, write_snapshot

__all__ = [
    "MemberRecord",
    "Run",
    "RunKeeper",
    "RunRecord",
    "check_member",
    "find_run",
    "is_claimed",
    "open_run",
    "read_member",
    "read_preprocessing",
    "read_run",
    "read_snapshot",
    "read_weights",
    "recipe_hash",
    "set_damaged_aside",
    "unsaveable",
    "unusable",
    "write_member",
    "write_snapshot",
]
