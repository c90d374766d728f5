"""How far it goes: streams of structures, frames on a disk, systems of a million atoms."""
