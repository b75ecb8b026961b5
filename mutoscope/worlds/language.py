"""Say what a scene shows, in English and Chinese, in many phrasings; and say exactly what was said.

Three lengths. ``short`` is one sentence and ``dense`` several; both tell every attribute that is scored. ``brief`` is
what a person types in a hurry: some attributes are left out. `describe` returns the words together with the facts they
tell, so that a reader can be taught and a clip judged by no more than what was asked for. `structured` is the caption
as published data engines store it (short, dense, background, style, shot, lighting, atmosphere, camera).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mutoscope.worlds.scene import Scene, Thing

Language = Literal["en", "zh"]
Length = Literal["brief", "short", "dense"]

FACETS = ("shape", "colour", "size", "texture", "motion", "speed")  # of a thing
SURROUNDINGS = ("background", "tone", "camera", "count")  # of the scene

# How often `brief` leaves a fact out.
OMIT = {"size": 0.4, "texture": 0.5, "colour": 0.1, "motion": 0.2, "speed": 0.5, "background": 0.4, "tone": 0.4}
OMIT_CAMERA = 0.7


@dataclass(frozen=True)
class Caption:
    """A text, the order in which it names the things, and what it tells: ``(thing index, facet)``, ``(None, fact)``."""

    text: str
    order: tuple[int, ...]
    told: frozenset[tuple[int | None, str]]


def caption(scene: Scene, seed: int, language: Language = "en", length: Length = "short") -> str:
    """Return one of the many texts for this scene, chosen by the seed."""
    return describe(scene, seed, language, length).text


def describe(scene: Scene, seed: int, language: Language = "en", length: Length = "short") -> Caption:
    """Return a caption with the facts it tells.

    Args:
        scene: what the clip shows.
        seed: chooses the phrasing; the same seed gives the same text.
        language: ``en`` or ``zh``.
        length: ``brief``, ``short`` or ``dense``.
    """
    draw = np.random.default_rng([20261122, scene.seed, seed])
    order = tuple(int(index) for index in draw.permutation(len(scene.things)))
    told = _choose_facts(scene, length, draw)
    speak = _english if language == "en" else _chinese
    return Caption(speak(scene, order, told, length, draw), order, told)


def structured(scene: Scene, seed: int, language: Language = "en") -> dict[str, str]:
    """Return the caption in parts, as the published data engines write it."""
    draw = np.random.default_rng([20261123, scene.seed, seed])
    words = EN if language == "en" else ZH
    tone = _pick(words["tone"][scene.tone], draw)
    return {
        "short": caption(scene, seed, language, "short"),
        "dense": caption(scene, seed, language, "dense"),
        "background": _pick(words["background"][scene.background], draw).format(tone=tone),
        "style": _pick(words["style"], draw),
        "shot": _pick(words["shot"], draw),
        "lighting": _pick(words["lighting"], draw),
        "atmosphere": _pick(words["atmosphere"], draw),
        "camera": _pick(words["camera"][scene.camera], draw),
    }


def _pick(choices, draw: np.random.Generator):
    """Choose one; faster than Generator.choice on a tuple of strings."""
    return choices[int(draw.integers(len(choices)))]


def _choose_facts(scene: Scene, length: Length, draw: np.random.Generator) -> frozenset[tuple[int | None, str]]:
    told: set[tuple[int | None, str]] = {(None, "count")}
    for index, thing in enumerate(scene.things):
        facts = [facet for facet in FACETS if facet != "speed" or thing.speed]
        if length == "brief":
            facts = [facet for facet in facts if draw.random() >= OMIT.get(facet, 0.0)]
            if "motion" not in facts:
                facts = [facet for facet in facts if facet != "speed"]
        if thing.texture == "solid" and draw.random() < 0.85:
            facts = [facet for facet in facts if facet != "texture"]  # solid goes without saying
        told |= {(index, facet) for facet in facts}
    told |= {(None, fact) for fact in ("background", "tone", "camera")}
    if length == "brief":
        if draw.random() < OMIT["background"]:
            told -= {(None, "background"), (None, "tone")}
        elif draw.random() < OMIT["tone"]:
            told -= {(None, "tone")}
        if draw.random() < OMIT_CAMERA:
            told -= {(None, "camera")}
    return frozenset(told)


# English --------------------------------------------------------------------------------------------------------------

EN: dict = {
    "shape": {
        "circle": ("circle", "disc", "ball"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "star": ("star",),
        "heart": ("heart",),
        "ring": ("ring", "hoop"),
        "cross": ("cross", "plus"),
    },
    "colour": {
        "red": ("red",),
        "orange": ("orange",),
        "yellow": ("yellow",),
        "green": ("green",),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue",),
        "purple": ("purple", "violet"),
        "pink": ("pink",),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "medium": ("medium", "medium-sized", "mid-sized"),
        "large": ("large", "big", "huge"),
    },
    "texture": {
        "solid": ("solid", "flat"),
        "striped": ("striped", "stripy"),
        "dotted": ("dotted", "spotted"),
    },
    # (finite, participle); {s} is where the manner goes
    "motion": {
        "still": (
            ("stays still", "staying still"),
            ("does not move", "not moving"),
            ("rests in place", "resting in place"),
            ("stands still", "standing still"),
        ),
        "left": (
            ("drifts{s} to the left", "drifting{s} to the left"),
            ("drifts{s} left", "drifting{s} left"),
            ("moves{s} left", "moving{s} left"),
            ("glides{s} to the left", "gliding{s} to the left"),
            ("slides{s} leftwards", "sliding{s} leftwards"),
        ),
        "right": (
            ("drifts{s} to the right", "drifting{s} to the right"),
            ("drifts{s} right", "drifting{s} right"),
            ("moves{s} right", "moving{s} right"),
            ("glides{s} to the right", "gliding{s} to the right"),
            ("slides{s} rightwards", "sliding{s} rightwards"),
        ),
        "up": (
            ("rises{s}", "rising{s}"),
            ("moves{s} up", "moving{s} up"),
            ("floats{s} upwards", "floating{s} upwards"),
            ("drifts{s} up", "drifting{s} up"),
        ),
        "down": (
            ("sinks{s}", "sinking{s}"),
            ("falls{s}", "falling{s}"),
            ("moves{s} down", "moving{s} down"),
            ("drifts{s} downwards", "drifting{s} downwards"),
        ),
        "bounce": (
            ("bounces{s}", "bouncing{s}"),
            ("bounces{s} up and down", "bouncing{s} up and down"),
            ("hops{s} on the spot", "hopping{s} on the spot"),
        ),
        "orbit": (
            ("orbits{s}", "orbiting{s}"),
            ("moves{s} in a circle", "moving{s} in a circle"),
            ("goes{s} round in a circle", "going{s} round in a circle"),
        ),
        "spin": (
            ("spins{s}", "spinning{s}"),
            ("spins{s} in place", "spinning{s} in place"),
            ("rotates{s}", "rotating{s}"),
            ("turns{s} around itself", "turning{s} around itself"),
        ),
        "grow": (
            ("grows", "growing"),
            ("grows larger", "growing larger"),
            ("gets bigger", "getting bigger"),
            ("expands", "expanding"),
        ),
        "shrink": (
            ("shrinks", "shrinking"),
            ("gets smaller", "getting smaller"),
            ("becomes smaller", "becoming smaller"),
        ),
        "appear": (
            ("appears", "appearing"),
            ("fades in", "fading in"),
            ("comes into view", "coming into view"),
        ),
    },
    "speed": {
        "slow": ("slowly", "gently", "at a slow pace"),
        "fast": ("quickly", "fast", "rapidly", "swiftly"),
    },
    "tone": {
        "white": ("white",),
        "grey": ("grey", "gray"),
        "black": ("black",),
        "beige": ("beige", "cream"),
        "slate": ("slate", "blue-grey"),
    },
    "background": {
        "plain": ("a plain {tone} background", "a flat {tone} background", "a plain {tone} wall"),
        "gradient": ("a {tone} gradient", "a {tone} gradient background", "a smooth {tone} gradient"),
        "checkered": (
            "a checkered {tone} floor",
            "a {tone} checkerboard",
            "a {tone} chequered background",
            "a {tone} checkered background",
        ),
        "textured": ("a textured {tone} background", "a mottled {tone} wall", "a cloudy {tone} background"),
    },
    "camera": {
        "static": ("the camera is static", "the camera stays still", "the camera does not move", "static camera"),
        "pan left": ("the camera pans left", "the camera pans to the left", "camera panning left"),
        "pan right": ("the camera pans right", "the camera pans to the right", "camera panning right"),
        "tilt up": ("the camera tilts up", "the camera tilts upwards", "camera tilting up"),
        "tilt down": ("the camera tilts down", "the camera tilts downwards", "camera tilting down"),
        "zoom in": ("the camera zooms in", "the camera moves closer", "camera zooming in"),
        "zoom out": ("the camera zooms out", "the camera pulls back", "camera zooming out"),
        "roll clockwise": ("the camera rolls clockwise", "the camera rotates clockwise", "camera rolling clockwise"),
        "roll counterclockwise": (
            "the camera rolls counterclockwise",
            "the camera rotates anticlockwise",
            "camera rolling counterclockwise",
        ),
    },
    "count": {
        1: ("one object", "a single object"),
        2: ("two objects", "two shapes"),
        3: ("three objects", "three shapes"),
    },
    "style": ("flat vector animation", "clean motion graphics", "minimal flat animation"),
    "shot": ("wide shot", "full shot", "eye-level wide shot"),
    "lighting": ("soft light from the upper left", "soft even light", "gentle light from above"),
    "atmosphere": ("calm and playful", "calm", "playful and clean"),
}


def _english(scene: Scene, order: tuple[int, ...], told: frozenset, length: Length, draw: np.random.Generator) -> str:
    background = _english_background(scene, told, draw)
    camera = _pick(EN["camera"][scene.camera], draw) if (None, "camera") in told else ""
    if length == "dense":
        return _english_dense(scene, order, told, background, camera, draw)
    participle = draw.random() < 0.4
    clauses = [_english_clause(scene.things[index], index, told, participle, draw) for index in order]
    things = clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
    where = _pick(("over", "on", "in front of", "against"), draw)
    if background and draw.random() < 0.25:
        text = f"{where} {background}, {things}"
    else:
        text = f"{things} {where} {background}" if background else things
    if camera:
        text = f"{camera}: {text}" if draw.random() < 0.15 else f"{text}, {camera}"
    return text[0].upper() + text[1:] + "." if draw.random() < 0.5 else text


def _english_background(scene: Scene, told: frozenset, draw: np.random.Generator) -> str:
    if (None, "background") not in told:
        return ""
    tone = _pick(EN["tone"][scene.tone], draw) if (None, "tone") in told else ""
    text = _pick(EN["background"][scene.background], draw).format(tone=tone)
    return " ".join(text.split())


def _english_noun(thing: Thing, index: int, told: frozenset, draw: np.random.Generator) -> str:
    parts = [_pick(EN["size"][thing.size], draw)] if (index, "size") in told else []
    if (index, "texture") in told:
        parts.append(_pick(EN["texture"][thing.texture], draw))
    if (index, "colour") in told:
        parts.append(_pick(EN["colour"][thing.colour], draw))
    parts.append(_pick(EN["shape"][thing.shape], draw))
    article = "an" if parts[0][0] in "aeio" else "a"
    return " ".join([article, *parts])


def _english_clause(thing: Thing, index: int, told: frozenset, participle: bool, draw: np.random.Generator) -> str:
    noun = _english_noun(thing, index, told, draw)
    if (index, "motion") not in told:
        return noun
    manner = " " + _pick(EN["speed"][thing.speed], draw) if (index, "speed") in told else ""
    return f"{noun} {_pick(EN['motion'][thing.motion], draw)[participle].format(s=manner)}"


def _english_dense(
    scene: Scene, order: tuple[int, ...], told: frozenset, background: str, camera: str, draw: np.random.Generator
) -> str:
    sentences = []
    if len(order) > 1 or draw.random() < 0.5:
        opening = _pick(("The video shows {}", "There are {} in the scene", "{} can be seen"), draw)
        if len(order) == 1:
            opening = opening.replace("There are", "There is")
        sentences.append(opening.format(_pick(EN["count"][len(order)], draw)))
    for index in order:
        thing = scene.things[index]
        noun = _english_noun(thing, index, told, draw)
        manner = " " + _pick(EN["speed"][thing.speed], draw) if (index, "speed") in told else ""
        sentences.append(f"{noun} {_pick(EN['motion'][thing.motion], draw)[0].format(s=manner)}")
    sentences.append(_pick(("the background is {}", "behind is {}", "it happens over {}"), draw).format(background))
    sentences.append(camera)
    if draw.random() < 0.5:
        sentences.append(_pick((_pick(EN["style"], draw), _pick(EN["lighting"], draw)), draw))
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


# Chinese --------------------------------------------------------------------------------------------------------------

ZH: dict = {
    "shape": {
        "circle": ("圆形", "圆", "圆球"),
        "square": ("正方形", "方块"),
        "triangle": ("三角形",),
        "star": ("星形", "星星", "五角星"),
        "heart": ("心形", "爱心"),
        "ring": ("圆环", "环形"),
        "cross": ("十字", "十字形"),
    },
    "colour": {
        "red": ("红色",),
        "orange": ("橙色",),
        "yellow": ("黄色",),
        "green": ("绿色",),
        "cyan": ("青色",),
        "blue": ("蓝色",),
        "purple": ("紫色",),
        "pink": ("粉色", "粉红色"),
    },
    "size": {"small": ("小", "小小的"), "medium": ("中等大小的", "中等的"), "large": ("大", "巨大的")},
    "texture": {"solid": ("实心",), "striped": ("条纹",), "dotted": ("圆点", "斑点")},
    "motion": {
        "still": ("静止不动", "保持不动", "停在原地"),
        "left": ("{s}向左移动", "{s}向左漂移", "{s}往左滑动"),
        "right": ("{s}向右移动", "{s}向右漂移", "{s}往右滑动"),
        "up": ("{s}向上移动", "{s}上升", "{s}向上漂浮"),
        "down": ("{s}向下移动", "{s}下落", "{s}下沉"),
        "bounce": ("{s}弹跳", "{s}上下弹跳"),
        "orbit": ("{s}绕圈", "{s}沿圆圈移动"),
        "spin": ("{s}旋转", "{s}原地旋转", "{s}自转"),
        "grow": ("变大", "逐渐变大"),
        "shrink": ("变小", "逐渐缩小"),
        "appear": ("出现", "渐渐出现", "淡入"),
    },
    "speed": {"slow": ("缓慢地", "慢慢地", "缓缓"), "fast": ("快速地", "迅速地", "飞快地")},
    "tone": {
        "white": ("白色",),
        "grey": ("灰色",),
        "black": ("黑色",),
        "beige": ("米色",),
        "slate": ("蓝灰色", "石板灰"),
    },
    "background": {
        "plain": ("{tone}纯色背景", "{tone}单色背景"),
        "gradient": ("{tone}渐变背景", "{tone}渐变"),
        "checkered": ("{tone}棋盘格地板", "{tone}格子背景", "{tone}棋盘格背景"),
        "textured": ("{tone}纹理背景", "{tone}斑驳的墙", "{tone}云纹背景"),
    },
    "camera": {
        "static": ("镜头静止", "镜头固定不动", "固定镜头"),
        "pan left": ("镜头向左平移", "镜头向左摇"),
        "pan right": ("镜头向右平移", "镜头向右摇"),
        "tilt up": ("镜头向上摇", "镜头上摇"),
        "tilt down": ("镜头向下摇", "镜头下摇"),
        "zoom in": ("镜头推近", "镜头放大"),
        "zoom out": ("镜头拉远", "镜头缩小"),
        "roll clockwise": ("镜头顺时针旋转", "镜头顺时针滚转"),
        "roll counterclockwise": ("镜头逆时针旋转", "镜头逆时针滚转"),
    },
    "count": {1: ("一个物体",), 2: ("两个物体", "两个图形"), 3: ("三个物体", "三个图形")},
    "style": ("扁平矢量动画", "简洁的动态图形"),
    "shot": ("全景镜头", "远景"),
    "lighting": ("左上方的柔光", "柔和均匀的光线"),
    "atmosphere": ("平静而活泼", "平静"),
}


def _chinese(scene: Scene, order: tuple[int, ...], told: frozenset, length: Length, draw: np.random.Generator) -> str:
    background = ""
    if (None, "background") in told:
        tone = _pick(ZH["tone"][scene.tone], draw) if (None, "tone") in told else ""
        background = _pick(ZH["background"][scene.background], draw).format(tone=tone)
    camera = _pick(ZH["camera"][scene.camera], draw) if (None, "camera") in told else ""
    clauses = [_chinese_clause(scene.things[index], index, told, draw) for index in order]
    if length == "dense":
        count = _pick(ZH["count"][len(order)], draw)
        opening = [_pick(("画面中有{}", "视频展示了{}"), draw).format(count)]
        closing = [_pick((_pick(ZH["style"], draw), _pick(ZH["lighting"], draw)), draw)] if draw.random() < 0.5 else []
        return "。".join([*opening, *clauses, f"背景是{background}", camera, *closing]) + "。"
    things = "，".join(clauses)
    if background and draw.random() < 0.4:
        text = f"在{background}上，{things}"
    else:
        text = f"{things}，背景是{background}" if background else things
    text = f"{text}，{camera}" if camera else text
    return text + "。" if draw.random() < 0.5 else text


def _chinese_clause(thing: Thing, index: int, told: frozenset, draw: np.random.Generator) -> str:
    size = _pick(ZH["size"][thing.size], draw) if (index, "size") in told else ""
    texture = _pick(ZH["texture"][thing.texture], draw) if (index, "texture") in told else ""
    colour = _pick(ZH["colour"][thing.colour], draw) if (index, "colour") in told else ""
    noun = f"{_pick(('一个', '一只', ''), draw)}{size}{colour}{texture}{_pick(ZH['shape'][thing.shape], draw)}"
    if (index, "motion") not in told:
        return noun
    manner = _pick(ZH["speed"][thing.speed], draw) if (index, "speed") in told else ""
    return noun + _pick(ZH["motion"][thing.motion], draw).format(s=manner)
