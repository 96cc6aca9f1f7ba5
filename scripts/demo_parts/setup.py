"""Before the traffic: chain, contracts, tokens, hub, models, nodes, index, API, as users would do it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from assay.chain.client import ChainClient
from assay.chain.contracts import Token
from assay.chain.deployments import Deployment
from assay.commitments.identifiers import model_id, version_id
from assay.node.config import load_config, write_config

from tests.support.anvil import ACCOUNTS, find_anvil
from tests.support.deploy import send_unlocked

from .processes import ASSAY, ROOT, DemoError, Processes, choose_port
from .world import (
    BOND,
    CHEAT,
    DISPUTE_WINDOW,
    MODELS,
    MOVE_WINDOW,
    PRICES,
    ROYALTY_BPS,
    SLASH,
    STAKE,
    UNIT,
    Person,
    World,
    create_people,
)

ETHER = 10**18
PORTS = {"chain": 8545, "hub": 8600, "node-1": 8601, "node-2": 8602, CHEAT: 8603, "api": 8700}
MINTED = {
    **{"node-1": STAKE, "node-2": STAKE, CHEAT: STAKE},
    **{"alice": 100 * UNIT, "bob": 100 * UNIT, "watcher": 100 * UNIT},
}
ESCROW = 5 * UNIT

Say = Callable[[str], None]


def build_world(folder: Path, processes: Processes, say: Say) -> World:
    """Everything up to two nodes that are ready to serve."""
    urls = {name: f"http://127.0.0.1:{choose_port(port)}" for name, port in PORTS.items()}
    say("starting a chain")
    chain = start_chain(urls["chain"], processes)
    say("deploying the contracts with `ape run deploy`")
    deployment = deploy(folder, urls["chain"], processes)
    world = World(folder, chain, deployment, urls, create_people(folder))
    say("handing out gas and tokens")
    for person in world.people.values():
        give(world, person)
    say("starting hub, index and API")
    start_services(world, processes)
    for model in MODELS:
        say(f"publishing {model}")
        publish(world, model, processes)
    with ThreadPoolExecutor() as pool:
        say("registering and starting two nodes")
        list(pool.map(lambda node: start_node(world, node, processes), world.honest))
        say("two consumers put money into escrow")
        list(pool.map(lambda consumer: fund(world, consumer, world.honest, processes), world.consumers))
    say("a watcher begins to look over the nodes' shoulders")
    start_watcher(world, processes)
    return world


def port_of(url: str) -> str:
    return url.rsplit(":", 1)[1]


def start_chain(url: str, processes: Processes) -> ChainClient:
    command = [str(find_anvil()), "--host", "127.0.0.1", "--port", port_of(url), "--hardfork", "cancun"]
    service = processes.start("anvil", command, os.environ)
    client = ChainClient(url)
    deadline = time.monotonic() + 30
    while "Listening on" not in service.tail(200):
        if service.process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"Anvil did not start ({service.log}):\n{service.tail()}")
        time.sleep(0.05)
    return client


def deploy(folder: Path, url: str, processes: Processes) -> Deployment:
    ape = Path(ASSAY).with_name("ape")
    command = [str(ape), "run", "deploy", "--network", f"ethereum:local:{url}"]
    command += ["--deployments", str(folder / "deployments"), "--dispute-window", str(DISPUTE_WINDOW)]
    command += ["--move-window", str(MOVE_WINDOW), "--bond", str(BOND), "--slash-amount", str(SLASH)]
    processes.run("deploy", command, os.environ)
    return Deployment.load(folder / "deployments", 31337)


def give(world: World, person: Person) -> None:
    """Ether for gas from the local chain's bank, test tokens from the mock."""
    world.chain.request("anvil_setBalance", [person.address, hex(100 * ETHER)])
    if amount := MINTED.get(person.name, 0):
        call = Token(world.chain, world.deployment).mint(person.address, amount)
        send_unlocked(world.chain, ACCOUNTS[0], call.to, call.data)
    world.minted[person.address] = amount


def start_services(world: World, processes: Processes) -> None:
    hub = [ASSAY, "hub", "run", "--store", str(world.folder / "hub"), "--port", port_of(world.urls["hub"])]
    processes.start("hub", hub, world.environment(ASSAY_DATA=str(world.folder)))
    processes.start(
        "index", [ASSAY, "index", "run", "--poll", "0.5", "--probe-period", "2"], world.environment()
    )
    api = [ASSAY, "api", "run", "--port", port_of(world.urls["api"]), "--probe-period", "2"]
    processes.start("api", api, world.environment())
    processes.wait_until_ready("hub", world.urls["hub"] + "/healthz")
    processes.wait_until_ready("api", world.urls["api"] + "/healthz")


def publish(world: World, model: str, processes: Processes) -> None:
    """`assay model init` writes the project beside the card, `assay model publish` does the rest."""
    source, folder = ROOT / "scripts" / "models" / model, world.data("models") / model
    folder.mkdir(parents=True)
    shutil.copy(source / "MODEL_CARD.md", folder)
    environment = world.environment(world.publisher)
    init = [ASSAY, "model", "init", model, "--onnx", str(source / "model.onnx"), "--folder", str(folder)]
    processes.run(f"publish-{model}", [*init, "--royalty-bps", str(ROYALTY_BPS)], environment)
    command = [ASSAY, "model", "publish", "--folder", str(folder), "--no-api", "--yes", "--json"]
    published = json.loads(processes.run(f"publish-{model}", command, environment))
    world.versions[model] = version_id(model_id(world.publisher.address, model), published["number"])


RUN_NODE = (ASSAY, "node", "run")


def start_node(world: World, node: Person, processes: Processes, program: Sequence[str] = RUN_NODE) -> None:
    """`assay node init` registers, stakes and offers; then impatient settings, because a demo is short."""
    folder, url = world.data(node.name), world.urls[node.name]
    command = [ASSAY, "node", "init", "--data", str(folder), "--yes", "--json"]
    command += ["--endpoint", url, "--port", port_of(url), "--stake", tokens(STAKE)]
    for model, price in PRICES[node.name].items():
        command += ["--serve", f"{world.publisher.address}/{model}@1={tokens(price)}"]
    processes.run(f"{node.name}-init", command, world.environment(node))
    config = load_config(folder)
    hurried = config.settlement.model_copy(update={"poll_seconds": 0.5, "max_age_seconds": 5.0})
    write_config(folder, config.model_copy(update={"settlement": hurried}))
    processes.start(node.name, [*program, "--data", str(folder)], world.environment())
    processes.wait_until_ready(node.name, url + "/v2/health/ready")


def tokens(amount: int) -> str:
    """Base units as the decimal number of tokens that commands take."""
    return f"{amount // UNIT}.{amount % UNIT:018d}"


def start_watcher(world: World, processes: Processes) -> None:
    """`assay watch --all`, from the chain alone: it is told of no node in particular."""
    command = [ASSAY, "watch", "--all", "--poll", "0.5", "--no-api"]
    processes.start("watcher", command, world.environment(world.watcher))


def fund(world: World, consumer: Person, nodes: Sequence[Person], processes: Processes) -> None:
    for node in nodes:
        amount = ESCROW + node.address.encode()[-1]  # odd amounts: nothing may rely on round ones
        command = [ASSAY, "channel", "fund", node.address, tokens(amount), "--no-api", "--json"]
        processes.run(f"fund-{consumer.name}", command, world.environment(consumer))
        world.funded[consumer.address, node.address] = amount
