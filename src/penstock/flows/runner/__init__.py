"""The runner of flows: claims runs, gives their mail to the process that runs their code, and stores its turns."""
