"""Folders of versions: complete or absent, checked at each look, mended by the same content."""

import shutil

import pytest

from services.rl.errors import BundleError
from services.rl.serving.model_folders import ModelFolders


@pytest.fixture
def folders(tmp_path):
    return ModelFolders(tmp_path / "models")


def test_an_added_bundle_stands_alone(folders, bundles, tmp_path):
    source = shutil.copytree(bundles["planner"].path, tmp_path / "bundle")
    version = folders.add(source).version
    shutil.rmtree(source)
    assert folders.get(version).version == version == bundles["planner"].version
    assert folders.versions() == [version]


def test_the_same_bundle_again_is_the_same_folder(folders, bundles):
    first = folders.add(bundles["planner"].path)
    written = (first.path / "manifest.json").stat().st_mtime_ns
    assert folders.add(bundles["planner"].path).version == first.version
    assert (first.path / "manifest.json").stat().st_mtime_ns == written
    assert [p.name for p in folders.folder.iterdir()] == [first.version]


def test_a_damaged_version_is_refused_until_its_content_is_added_again(folders, bundles):
    version = folders.add(bundles["planner"].path).version
    (folders.folder / version / "matching.json").write_text("{}")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        folders.get(version)
    assert folders.add(bundles["planner"].path).version == version
    assert folders.get(version).version == version
    assert [p.name for p in folders.folder.iterdir()] == [version]


def test_a_damaged_bundle_is_not_added(folders, bundles, tmp_path):
    source = shutil.copytree(bundles["planner"].path, tmp_path / "bundle")
    (source / "planner.json").unlink()
    with pytest.raises(BundleError, match=r"planner\.json is missing"):
        folders.add(source)
    assert folders.versions() == []


@pytest.mark.parametrize("version", ["../../etc", "", "x" * 12, "0" * 12])
def test_a_name_that_is_no_version_leads_nowhere(folders, version):
    with pytest.raises(BundleError, match="there is no model"):
        folders.get(version)


def test_a_version_under_anothers_name_is_refused(folders, bundles):
    first, second = (folders.add(bundles[kind].path).version for kind in ("planner", "matching"))
    shutil.rmtree(folders.folder / first)
    (folders.folder / second).rename(folders.folder / first)
    with pytest.raises(BundleError, match="moved or altered"):
        folders.get(first)


def test_a_folder_that_cannot_be_written_is_one_sentence(bundles, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(BundleError, match="cannot be written"):
        ModelFolders(tmp_path / "models").add(bundles["planner"].path)
