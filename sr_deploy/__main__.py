"""`python -m sr_deploy` is `sr-deploy`."""

from sr_deploy.cli import run

run()
