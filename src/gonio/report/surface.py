"""A surface of a map that can be rotated in the page, by plotly, whose script is in the page once.

The script is compressed: browsers of 2023 and later decompress it themselves (DecompressionStream); in others the page
states that it cannot draw the surface, and has the slices.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from html import escape

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from gonio.particle.volume import Volume
from gonio.report.figures import identifier

# Largest number of voxels along an edge: finer surfaces take long to draw and look the same at this size.
MAX_BOX = 48
# Ends of the slider, in standard deviations over the mean. At first a surface encloses the fraction HELD of the box:
# particles fill 5 to 15 % of theirs, and noise filtered to their resolution has few peaks as high.
LOWEST, HIGHEST, HELD = 1.0, 6.0, 0.04


def height(volume: Volume) -> float:
    """Return the density of the surface that is shown first."""
    mean, deviation = float(volume.data.mean()), max(float(volume.data.std()), 1e-30)
    return mean + _start((volume.data - mean) / deviation) * deviation


def _start(values: NDArray[np.float32]) -> float:
    """Return the height of the first surface of a map, both in standard deviations over the mean."""
    return float(np.clip(np.quantile(values, 1.0 - HELD), LOWEST, max(0.6 * values.max(), LOWEST)))


def surface(name: str, volume: Volume) -> str:
    """Return a figure with the surface of a map at one height, and a slider for the height."""
    factor = min(1.0, MAX_BOX / volume.box)
    data = zoom(volume.data, factor, order=1) if factor < 1 else volume.data
    values = ((data - data.mean()) / max(float(data.std()), 1e-30)).astype(np.float32)
    start = _start(values)
    step = volume.box_angstrom / len(data)
    content = {
        "box": len(data),
        "step": round(step, 4),
        "values": b64encode(np.round(values, 2).astype("<f4").tobytes()).decode(),
        "level": round(start, 2),
        "most": round(float(values.max()), 2),
    }
    name_id = identifier(f"surface {name}")
    caption = (
        "The surface of equal density, in standard deviations over the mean of the box: drag to rotate, scroll to zoom."
        " Axes in angstrom from the centre."
    )
    slider = (
        f"<label class=level>height <input type=range min={LOWEST} max={max(HIGHEST, start):.2f} step=0.05"
        f' value={start:.2f} aria-label="height of the surface"> <output>{start:.2f} sd</output></label>'
    )
    return (
        f"<figure class=surface id={name_id}><h3>{escape(name[:1].upper() + name[1:])}, surface</h3>"
        f"<div class=scene>This view needs a browser with WebGL and scripts.</div>{slider}"
        f"<figcaption>{escape(caption)}</figcaption>"
        f"<script type=application/json>{json.dumps(content)}</script></figure>"
    )


def library() -> str:
    """Return plotly's script, compressed, and the script that draws every surface of the page with it."""
    from plotly.offline import get_plotlyjs

    packed = b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    return f"<script type=text/plain id=plotly>{packed}</script><script>{DRAW}</script>"


DRAW = """
(async () => {
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const figures = [...document.querySelectorAll('figure.surface')];
  const say = text => figures.forEach(f => f.querySelector('.scene').textContent = text);
  const gl = document.createElement('canvas').getContext('webgl');
  if (!gl) { say('This view needs WebGL, which this browser does not offer.'); return; }
  if (typeof DecompressionStream === 'undefined') { say('This view needs a newer browser.'); return; }
  const packed = bytes(document.getElementById('plotly').textContent);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(stream).text();
  document.head.appendChild(script);
  const ink = () => getComputedStyle(document.documentElement).getPropertyValue('--ink').trim();
  for (const figure of figures) {
    const content = JSON.parse(figure.querySelector('script').textContent), n = content.box;
    const values = new Float32Array(bytes(content.values).buffer);
    const x = new Float32Array(n ** 3), y = new Float32Array(n ** 3), z = new Float32Array(n ** 3);
    for (let i = 0; i < n ** 3; i++) {
      x[i] = (i % n - (n >> 1)) * content.step;
      y[i] = (Math.floor(i / n) % n - (n >> 1)) * content.step;
      z[i] = (Math.floor(i / n / n) - (n >> 1)) * content.step;
    }
    const scene = figure.querySelector('.scene'), axis = title => ({
      title: {text: title}, color: ink(), showbackground: false, gridcolor: 'rgba(128,128,128,.25)', zeroline: false});
    // Two surfaces: the lower is at the height, the upper above all there is. A single one would lie between them.
    const data = [{type: 'isosurface', x, y, z, value: values, isomin: content.level, isomax: content.most + 1,
      surface: {count: 2}, caps: {x: {show: false}, y: {show: false}, z: {show: false}}, showscale: false,
      colorscale: [[0, '#3b7dd8'], [1, '#3b7dd8']], hoverinfo: 'skip',
      lighting: {ambient: .45, diffuse: .7, specular: .25, roughness: .6}}];
    const layout = {margin: {l: 0, r: 0, t: 0, b: 0}, paper_bgcolor: 'rgba(0,0,0,0)', height: 320,
      scene: {aspectmode: 'data', camera: {eye: {x: .9, y: .9, z: .7}},
        xaxis: axis('x'), yaxis: axis('y'), zaxis: axis('z')}};
    scene.textContent = '';
    await Plotly.newPlot(scene, data, layout, {responsive: true, displaylogo: false,
      modeBarButtonsToRemove: ['tableRotation', 'resetCameraLastSave3d']});
    const slider = figure.querySelector('input'), output = figure.querySelector('output');
    slider.addEventListener('input', () => { output.textContent = (+slider.value).toFixed(2) + ' sd'; });
    slider.addEventListener('change', () => Plotly.restyle(scene, {isomin: [+slider.value]}));
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => Plotly.relayout(scene,
      {'scene.xaxis.color': ink(), 'scene.yaxis.color': ink(), 'scene.zaxis.color': ink()}));
    figure.dataset.drawn = 'yes';
  }
})();
"""
