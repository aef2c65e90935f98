"""Experiments: who gets what (`assignment`, `plan`, `reading`), two rankings in one list (`interleaving`), and what came of it
(`analysis`, `sequential`, `power`, `preference`: training libraries, never imported by the service); what a policy would have earned by
another's log (`offpolicy`), whether a bundle may go live (`gate`), and the money (`roi`)."""
