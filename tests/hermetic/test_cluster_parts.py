"""The parts of a cluster that are decided before anything runs: addresses, images, control groups."""

import io
import ipaddress
import json
import tarfile
from pathlib import Path

import pytest
from cluster import Cluster, node_spec
from hermetic_cgroups import hierarchies, make_group
from hermetic_errors import ControlPlaneFailed
from hermetic_images import write_image
from hermetic_network import BLOCKS, MAX_NODES, Network, free_block
from hermetic_node import OCI_NAME, image_names
from hermetic_node_files import PAUSE_IMAGE, containerd_config


def test_no_two_addresses_of_a_cluster_collide() -> None:
    network = Network(200)
    whole = ipaddress.ip_network(network.cidr)
    nodes = range(1, MAX_NODES + 1)
    single = [network.host, network.uplink, network.gateway, *map(network.node, nodes)]
    assert len(set(single)) == len(single)
    ranges = [ipaddress.ip_network(network.services), *(ipaddress.ip_network(network.pods_of(n)) for n in nodes)]
    for index, block in enumerate(ranges):
        assert block.subnet_of(whole)
        assert not any(block.overlaps(other) for other in ranges[index + 1 :])
        assert not any(ipaddress.ip_address(address) in block for address in single)
    assert all(block.subnet_of(ipaddress.ip_network(network.pods)) for block in ranges[1:])
    services = ipaddress.ip_network(network.services)
    assert ipaddress.ip_address(network.kubernetes) == services[1]
    assert ipaddress.ip_address(network.dns) in services


@pytest.mark.parametrize(
    ("interfaces", "routes", "block"),
    [
        ([], [], 200),
        (["lo", "eth0"], ["192.0.2.0/24"], 200),
        (["flashplane200", "flashplane201"], [], 202),
        ([], ["10.200.7.0/24", "10.201.0.1"], 202),
        ([], ["10.0.0.0/8"], None),
        ([f"flashplane{block}" for block in BLOCKS], [], None),
    ],
)
def test_a_cluster_takes_addresses_that_nobody_uses(
    interfaces: list[str], routes: list[str], block: int | None
) -> None:
    found = free_block(interfaces, routes)
    assert (found.block if found else None) == block


def test_the_first_three_nodes_are_in_three_regions() -> None:
    specs = [node_spec(number) for number in range(1, 6)]
    assert [spec.name for spec in specs] == ["eu-1", "us-1", "jp-1", "eu-2", "us-2"]
    assert specs[3].labels == "topology.kubernetes.io/region=eu,topology.kubernetes.io/zone=eu-a"


@pytest.mark.parametrize("nodes", [0, MAX_NODES + 1])
def test_a_number_of_nodes_that_cannot_be_is_refused(nodes: int) -> None:
    with pytest.raises(ControlPlaneFailed, match=rf"nodes \({nodes}\) must be from 1 to {MAX_NODES}"):
        Cluster(nodes=nodes)


def test_an_image_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!")
    first, second = (
        write_image(
            tmp_path / name, "example.test/a:1", {"/bin/p": program}, entrypoint=["/bin/p"], links={"/bin/q": "p"}
        )
        for name in ("first.tar", "second.tar")
    )
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as image:
        members = {member.name: image.extractfile(member) for member in image}
        manifest = json.load(members["manifest.json"])  # type: ignore[arg-type]
        config = json.load(members["config.json"])  # type: ignore[arg-type]
        assert manifest == [{"Config": "config.json", "RepoTags": ["example.test/a:1"], "Layers": ["layer.tar"]}]
        assert config["config"]["User"] == "65532:65532"
        with tarfile.open(fileobj=members["layer.tar"]) as layer:
            assert {member.name: oct(member.mode) for member in layer if not member.issym()} == {
                "bin": "0o755",
                "tmp": "0o1777",
                "bin/p": "0o755",
            }
            assert layer.getmember("bin/q").linkname == "p"


def test_the_runtime_has_the_image_that_holds_pods_together() -> None:
    assert f'sandbox = "{PAUSE_IMAGE}"' in containerd_config(runtime=Path("/r"), cni=Path("/c"))


def test_a_group_of_version_1_may_use_the_processors_of_its_parent(tmp_path: Path) -> None:
    for controller in ("cpuset", "memory"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").touch()
    (tmp_path / "cpu").symlink_to(tmp_path / "memory")
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "cpuset" / "one").mkdir()
    (tmp_path / "cpuset" / "one" / "cpuset.cpus").touch()  # as the kernel makes it: empty
    assert [path.name for path in hierarchies(tmp_path)] == ["cpuset", "memory"]
    make_group("one/two", tmp_path)
    assert (tmp_path / "cpuset" / "one" / "cpuset.cpus").read_text() == "0-1\n"
    assert (tmp_path / "memory" / "one" / "two").is_dir()


def test_version_2_hands_its_controllers_down(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "one", tmp_path / "one" / "two"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text("cpu memory rdma\n")
        (folder / "cgroup.subtree_control").touch()
    assert hierarchies(tmp_path) == [tmp_path]
    make_group("one/two", tmp_path)
    for folder in (tmp_path, tmp_path / "one", tmp_path / "one" / "two"):
        assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory"


@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_tells_what_its_images_are_called(tmp_path: Path, prefix: str) -> None:
    name = "ghcr.io/flashplane/engine:0.1.0-cpu"
    files: dict[str, object] = {
        "manifest.json": [{"RepoTags": [name]}, {"RepoTags": None}],
        "index.json": {"manifests": [{"annotations": {OCI_NAME: "docker.io/library/pause:1"}}, {}]},
    }
    for kept in (("manifest.json",), ("index.json",), tuple(files)):
        with tarfile.open(tmp_path / "image.tar", "w") as tar:
            for file in kept:
                content = json.dumps(files[file]).encode()
                entry = tarfile.TarInfo(prefix + file)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        expected = {"manifest.json": {name}, "index.json": {"docker.io/library/pause:1"}}
        assert image_names(tmp_path / "image.tar") == set().union(*(expected[file] for file in kept))
