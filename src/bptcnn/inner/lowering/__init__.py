"""From layers to programs: kernel calls on blocks of samples, divided into tasks."""
