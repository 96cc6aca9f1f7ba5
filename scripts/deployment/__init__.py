"""What `scripts/deploy.py` is made of: compiler, plan, deployer, source verification."""
