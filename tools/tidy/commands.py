"""compile_commands.json of a build, with an entry for each source, also for those that are compiled several at once."""
import json
import pathlib
import re


def read(path):
    """The entries of a compile_commands.json. CMake's unity files are replaced by what they include: each source gets the
    command of its unity file, with its own name and the same object."""
    entries = []
    for entry in json.loads(pathlib.Path(path).read_text()):
        unity = pathlib.Path(entry["directory"], entry["file"])
        if unity.parent.name != "Unity":
            entries.append(entry)
            continue
        for source in re.findall(r'^#include "(.+)"$', unity.read_text(), re.MULTILINE):
            command = entry.get("command", "").replace(entry["file"], source)
            entries.append({**entry, "file": source, "command": command})
    return entries
