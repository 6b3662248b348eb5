"""Boxes drawn with the mouse of a real browser, and the requests that a page sends."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from browser import open_window
from fastapi.testclient import TestClient

from shutterless.workflows.boxes.desk import COCO_NAME, BoxDesk
from shutterless.workflows.boxes.label import build_box_app
from shutterless.workflows.boxes.labels import read_labels, read_regions

from .conftest import write_image


@pytest.fixture
def images(tmp_path):
    return [write_image(tmp_path / f"{name}.fits", seed) for seed, name in enumerate("ab")]


def test_pages_pictures_and_refusals(images, tmp_path):
    client = TestClient(build_box_app(BoxDesk.open(images, tmp_path / "out", ["echo"])))
    page = client.get("/")
    assert page.url.path == "/image/1"
    assert "script-src 'nonce-" in page.headers["Content-Security-Policy"]
    assert client.get("/image/2/picture.png").headers["Content-Type"] == "image/png"
    missing = client.get("/image/3")
    assert (missing.status_code, missing.json()) == (404, {"error": "there is no image 3, only 1 to 2"})
    refused = client.post("/boxes", json={"place": 0, "boxes": [{"kind": "cat"}]})
    assert refused.status_code == 422
    assert "its kind 'cat' is none of" in refused.json()["error"]


def test_a_box_drawn_by_the_mouse_is_where_the_light_is(images, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "shutterless.workflows.cli",
        "boxes",
        "label",
        *map(str, images),
        "--out",
        str(out),
    ]
    server = subprocess.Popen([*command, "--kind", "echo", "--kind", "artefact"], stdout=subprocess.PIPE, text=True)
    try:
        url = re.search(r"2 images to label at (http://\S+)", server.stdout.readline())[1]
        with open_window(tmp_path) as window:
            window.get(url)

            def wait_for(text):
                WebDriverWait(window, 60, 0.05).until(
                    lambda page: page.find_element(By.ID, "saved").text == text
                )  # fmt: skip

            def press(key):
                window.find_element(By.TAG_NAME, "body").send_keys(key)

            def drag(start, stop):
                """Press the mouse at a pixel of the image, move to another, and let go."""
                script = """
                const sky = document.getElementById("sky");
                return arguments[0].map(([x, y]) => {
                  const point = new DOMPoint(x, sky.viewBox.baseVal.height - 1 - y).matrixTransform(sky.getScreenCTM());
                  return [Math.round(point.x), Math.round(point.y)];
                });
                """
                (x0, y0), (x1, y1) = window.execute_script(script, [start, stop])
                chain = ActionChains(window)
                chain.w3c_actions.pointer_action.move_to_location(x0, y0).pointer_down()
                chain.w3c_actions.pointer_action.move_to_location(x1, y1).pointer_up()
                chain.perform()

            wait_for("nobody looked at it yet")
            drag([25, 29.5], [55, 29.5])
            wait_for("1 saved")
            for _ in range(4):
                press("-")
            press("l")
            drag([70, 10], [80, 20])
            wait_for("2 saved")
            press("2")
            press("c")
            drag([5, 50], [20, 50])
            wait_for("3 saved")
            press("z")
            wait_for("2 saved")
            window.refresh()
            wait_for("2 saved")
            assert window.execute_script("return document.querySelectorAll('#sky polygon').length") == 2
            press("\ue014")  # right arrow
            wait_for("nobody looked at it yet")
            press("e")
            wait_for("0 saved")
    finally:
        server.terminate()
        server.wait(timeout=60)
        server.stdout.close()
    first, second = read_labels(out / COCO_NAME)
    assert len(second.boxes) == 0
    echo, artefact = first.boxes.to_dict("records")
    assert (echo["kind"], echo["confidence"], artefact["kind"]) == ("echo", 0.7, "artefact")
    assert echo["x"] == pytest.approx(40, abs=0.5)
    assert echo["y"] == pytest.approx(29.5, abs=0.5)
    assert echo["length"] == pytest.approx(30, abs=0.5)
    assert echo["width"] == pytest.approx(10 * 0.87**4, abs=0.5)
    assert artefact["angle"] == pytest.approx(0.785, abs=0.05)  # up and to the right, with the first row below
    assert echo["group"] == artefact["group"] == 0
    assert read_regions(out / "a.reg", images[0])["kind"].tolist() == ["echo", "artefact"]
