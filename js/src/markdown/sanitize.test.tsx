import { describe, expect, test } from "vitest";
import { place } from "../testing/draw";
import { Markdown } from "./markdown";

async function drawn(text: string): Promise<HTMLElement> {
  const { page, draw } = place();
  await draw(<Markdown text={text} growing={false} />);
  return page;
}

const OWN_CLASSES = /^ollm-|^tml-/;

describe("what a model writes", () => {
  test("becomes text structure", async () => {
    expect((await drawn("a **b** `c`\n\n- d")).innerHTML).toBe(
      '<div class="ollm-markdown"><div class="ollm-chapter"><div><p>a <strong>b</strong> <code>c</code></p>\n</div>' +
        "<div><ul>\n<li>d</li>\n</ul>\n</div></div></div>",
    );
  });

  test("keeps the numbers of its lists and the sides of its columns", async () => {
    expect((await drawn("3. a\n4. b")).querySelector("ol")?.getAttribute("start")).toBe("3");
    const cell = (await drawn("| a | b |\n|--:|---|\n| 1 | 2 |")).querySelector("td");
    expect(cell?.getAttribute("align")).toBe("right");
    const spans = "<table><tr><td colspan=2 rowspan=3>x</td></tr></table>";
    expect((await drawn(spans)).innerHTML).toContain('<td colspan="2" rowspan="3">');
  });

  test.each([
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a href='javascript:alert(1)'>x</a></svg>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<math href='javascript:alert(1)'><mtext><style><img src=x onerror=alert(1)></style></mtext>",
    "[x](javascript:alert(1))",
    "[x](  JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<iframe src='https://example.org'></iframe>",
    "<form action='https://example.org'><input name=a><button>b</button></form>",
    "<p style='position:fixed' id='x' class='y' onclick='alert(1)'>z</p>",
    "<span class='ollm-tex x'>a</span><code class='ollm-code language-x'>b</code>",
    "<pre><code class='language-x\" onclick=\"alert(1)'>b</code></pre>",
    "<style>*{display:none}</style>",
    "<base href='https://example.org'><link rel=stylesheet href=x><meta http-equiv=refresh>",
    "![x](https://example.org/leak.png)",
    "![x](x' onerror='alert(1))",
    "<picture><source srcset='https://example.org/a'><img src='https://example.org/b'></picture>",
    "<video src='https://example.org/v' poster='https://example.org/p'></video>",
    "```<img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```",
    "```html\n<script>alert(1)</script><img src=x onerror=alert(1)>\n```",
    "- ```js\n  alert(`$ {1}<img src=x onerror=alert(1)>`)\n  ```",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<details open ontoggle=alert(1)>x</details>",
    "<think><img src=x onerror=alert(1)></think><script>alert(1)</script>",
    "<span class='ollm-tex'>\\href{javascript:alert(1)}{x}</span>",
    "$\\href{javascript:alert(1)}{x}$ $\\url{javascript:alert(1)}$",
    "$\\style{position:fixed}{x}$ $\\class{y}{x}$ $\\cssId{x}{x}$ $\\includegraphics{x}$",
    "$\\text{<img src=x onerror=alert(1)>}$ $\\color{red;background:url(x)}x$",
    "$\\ref{x}\\label{y}$",
  ])("cannot load, run, name or place anything: %s", async (text) => {
    const page = await drawn(text);
    expect(
      page.querySelector(
        "script, style, img, svg, iframe, form, input, base, link, meta, video, source, object, " +
          "embed, math a, annotation, annotation-xml, semantics, button:not([aria-label='Copy code'])",
      ),
    ).toBeNull();
    for (const element of page.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^id$|src/);
        if (name === "href") expect(value).toMatch(/^(https?|mailto):/);
        if (name === "style") expect(value).not.toMatch(/position|url|display/);
        if (name === "class") {
          for (const one of value.split(" ")) expect(one).toMatch(OWN_CLASSES);
        }
      }
    }
  });

  test("has its pictures named, not shown", async () => {
    expect((await drawn("![a cat](https://example.org/cat.png)")).textContent).toContain(
      "[image: a cat]",
    );
    expect(
      (await drawn("<img src='https://example.org/cat.png' alt='a cat'>")).textContent,
    ).toContain("[image: a cat]");
    expect((await drawn('![<b onclick="x">](y)')).querySelector("b")).toBeNull();
  });

  test("links to the web in a new tab that cannot reach back", async () => {
    expect((await drawn("[x](https://example.org)")).innerHTML).toContain(
      '<a href="https://example.org" target="_blank" rel="noopener noreferrer">x</a>',
    );
    expect((await drawn("[x](mailto:a@example.org)")).innerHTML).toContain("mailto:a@example.org");
    expect((await drawn("[x](/relative)")).innerHTML).not.toContain("href");
  });

  test.each(["<b>", "<ul><li>", "> "])("is shown however deep it nests %o", async (mark) => {
    expect((await drawn(`${mark.repeat(400)}the end`)).textContent).toContain("the end");
  });
});
