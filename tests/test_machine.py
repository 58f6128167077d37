"""What a run says of where its numbers come from."""

import re
import subprocess

from zeromamba.machine import commit_of


def test_a_run_names_the_commit_and_whether_the_code_was_changed_since(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a", *arguments], check=True)

    package = tmp_path / "zeromamba"
    package.mkdir()
    (package / "machine.py").write_text("1")
    git("init", "-q")
    assert commit_of(package) is None, "installed in a repository of something else"
    git("add", ".")
    git("commit", "-qm", "first")
    commit = commit_of(package)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "elsewhere").write_text("2")
    assert commit_of(package) == commit
    for file in (tmp_path / "train.py", package / "machine.py"):
        file.write_text("2")
        assert commit_of(package) == f"{commit}+changes"
        file.write_text("1")
        git("add", ".")
        git("commit", "-qm", "again", "--allow-empty")
        commit = commit_of(package)
        assert not commit.endswith("changes")
