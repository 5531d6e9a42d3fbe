"""The page of the blind test: its arithmetic, and a person who clicks through it."""

from math import comb
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from vaegan_pl.report import blind_page

PAIRS = [(Image.new("L", (8, 8), 200), Image.new("L", (8, 8), 20), left) for left in (True, False, False)]


def test_chances_are_those_of_fair_coins() -> None:
    expected = [sum(comb(20, k) for k in range(right, 21)) / 2**20 for right in range(21)]
    assert blind_page.chances(20) == pytest.approx(expected, rel=1e-12)


def test_a_caption_from_a_strangers_file_stays_text() -> None:
    page = blind_page.render(PAIRS, "</script><b>x</b>")
    assert "<b>x" not in page
    assert page.count("</script>") == 1


def test_the_page_counts_right_answers_and_says_what_they_show(phone: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "blind_test.html"
    path.write_text(blind_page.render(PAIRS, "PHANTOMS"), encoding="utf-8")
    phone.get(path.as_uri())
    for click, said in (("0", "Right."), ("0", "Wrong."), ("1", "Right.")):
        phone.find_element(By.ID, click).click()
        phone.find_element(By.ID, click).click()  # a second click changes nothing
        assert phone.find_element(By.ID, "said").text == said
        phone.find_element(By.ID, "next").click()
    assert phone.find_element(By.ID, "question").text == "2 of 3 right"
    assert "gets 2 or more right in 50 % of all tests" in phone.find_element(By.ID, "said").text
    assert len(phone.find_elements(By.CSS_SELECTOR, "#answers img")) == 6
    assert phone.execute_script("return document.documentElement.scrollWidth") <= phone.execute_script(
        "return innerWidth"
    )
