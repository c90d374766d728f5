"""The papers' study of the fullerene C20, anew on this computer."""
