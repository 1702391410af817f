"""Writes what an image holds as a CycloneDX document: Python packages, Debian packages, the bundled tritonserver.

Runs inside the build, where `cyclonedx-python-lib` is; equal contents give equal bytes.
"""

import argparse
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="of the image")
    parser.add_argument("--debian", type=Path, required=True, help="the base's /var/lib/dpkg/status")
    parser.add_argument("--root", type=Path, required=True, help="what the image adds to its base")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bom = Bom(components=[*python_packages(options.root), *debian_packages(options.debian), *servers(options.root)])
    names = "\n".join(sorted(f"{component.name} {component.version}" for component in bom.components))
    bom.serial_number = uuid5(NAMESPACE_URL, f"{options.name}\n{names}")
    image = Component(name=options.name, type=ComponentType.CONTAINER, bom_ref=options.name)
    bom.metadata.component = image
    bom.register_dependency(image, bom.components)
    bom.metadata.timestamp = None  # type: ignore[assignment]
    options.out.parent.mkdir(parents=True)
    options.out.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n")


def python_packages(root: Path) -> Iterator[Component]:
    """Every distribution of the image's virtual environment."""
    (packages,) = root.glob("opt/flashplane/lib/python3.*/site-packages")
    for found in distributions(path=[str(packages)]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        yield component(name, found.version, PackageURL("pypi", None, name, found.version))


def debian_packages(status: Path) -> Iterator[Component]:
    """Every package that dpkg has installed in the base."""
    for paragraph in status.read_text().split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version, where = fields["Package"], fields["Version"], {"arch": fields["Architecture"]}
            yield component(name, version, PackageURL("deb", "debian", name, version, where))


def servers(root: Path) -> Iterator[Component]:
    """The tritonserver that came in a wheel, unless the base has one of its own."""
    for folder in root.glob("opt/pytriton/*.dist-info"):
        wheel, _, version = folder.name.removesuffix(".dist-info").partition("-")
        name = wheel.replace("_", "-")
        yield component(name, version, PackageURL("pypi", None, name, version))


def component(name: str, version: str, purl: PackageURL) -> Component:
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl))


if __name__ == "__main__":
    main()
