"""The example domain: a catalogue of products. The README says how to remove it."""
