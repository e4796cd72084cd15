// Package chart draws curves over time as SVG, so that a measurement can be looked
// at in any browser and kept beside its table.
//
// It owns nothing but the drawing: no fonts, no interaction, no reading back. Main
// walk: a Page of Panels one below the other, which share their time axis; WriteTo.
package chart

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
)

// Page is a drawing: panels one below the other over the same time.
type Page struct {
	Title  string
	Panels []Panel
	Marks  []Mark // drawn through all panels
}

// Panel is one set of axes.
type Panel struct {
	Title  string // with the unit, as "memory, MiB"
	Curves []Curve
}

// Curve is a line through points, in the order of their time. It has a gap at points
// whose Y is not a number.
type Curve struct {
	Name   string
	Points []Point
}

// Point is a value at a time in seconds.
type Point struct{ X, Y float64 }

// Mark is a moment with a name, as "master killed".
type Mark struct {
	X    float64
	Name string
}

// Places in the drawing, in its units (pixels at first).
const (
	width      = 960
	left       = 70
	right      = 190 // holds the names of curves
	top        = 46  // holds the title
	panelRoom  = 190
	panelPlot  = 150 // of which curves fill
	lineHeight = 15
)

// colours are told apart by people who do not see all of them alike (Okabe and Ito).
var colours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000", "#999933"}

// WriteTo writes the drawing as SVG.
func (p *Page) WriteTo(w io.Writer) (int64, error) {
	var out bytes.Buffer
	height := top + len(p.Panels)*panelRoom + 20
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", width, height, width, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="white"/><text x="%d" y="20" font-size="15">%s</text>`+"\n", width, height, left, html.EscapeString(p.Title))
	times := p.times()
	for n, panel := range p.Panels {
		f := frame{x: times, y: panel.values(), top: float64(top + n*panelRoom + 16)}
		f.axes(&out, panel.Title, n == len(p.Panels)-1)
		for _, m := range p.Marks {
			f.mark(&out, m, n == 0)
		}
		for i, c := range panel.Curves {
			f.curve(&out, c, i)
		}
	}
	out.WriteString("</svg>\n")
	return out.WriteTo(w)
}

// times is the span of all points and marks.
func (p *Page) times() span {
	var s span
	for _, panel := range p.Panels {
		for _, c := range panel.Curves {
			for _, point := range c.Points {
				s.add(point.X)
			}
		}
	}
	for _, m := range p.Marks {
		s.add(m.X)
	}
	return s.rounded()
}

// values is the span of a panel's values, and zero.
func (p *Panel) values() span {
	var s span
	s.add(0)
	for _, c := range p.Curves {
		for _, point := range c.Points {
			s.add(point.Y)
		}
	}
	return s.rounded()
}

// span is from the lowest to the highest of some numbers, in even steps.
type span struct {
	low, high, step float64
	any             bool
}

func (s *span) add(v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	if !s.any {
		s.low, s.high, s.any = v, v, true
	}
	s.low, s.high = min(s.low, v), max(s.high, v)
}

// rounded widens a span to whole steps of 1, 2 or 5 times a power of ten.
func (s span) rounded() span {
	if s.high <= s.low {
		s.high = s.low + 1
	}
	raw := (s.high - s.low) / 5
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, times := range []float64{10, 5, 2, 1} {
		if power*times >= raw {
			s.step = power * times
		}
	}
	s.low, s.high = math.Floor(s.low/s.step)*s.step, math.Ceil(s.high/s.step)*s.step
	return s
}

// ticks are the numbers at which lines are drawn.
func (s span) ticks() []float64 {
	var out []float64
	for n := 0; s.low+float64(n)*s.step <= s.high+s.step/2; n++ {
		out = append(out, s.low+float64(n)*s.step)
	}
	return out
}

// frame is one panel's place.
type frame struct {
	x, y span
	top  float64
}

func (f *frame) place(p Point) (x, y float64) {
	x = left + (p.X-f.x.low)/(f.x.high-f.x.low)*(width-left-right)
	y = f.top + panelPlot - (p.Y-f.y.low)/(f.y.high-f.y.low)*panelPlot
	return x, y
}

func (f *frame) axes(out *bytes.Buffer, title string, last bool) {
	fmt.Fprintf(out, `<text x="%d" y="%.1f" font-weight="bold">%s</text>`+"\n", left, f.top-6, html.EscapeString(title))
	for _, v := range f.y.ticks() {
		_, y := f.place(Point{Y: v})
		fmt.Fprintf(out, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, y, width-right, left-6, y+4, number(v))
	}
	for _, v := range f.x.ticks() {
		x, y := f.place(Point{X: v, Y: f.y.low})
		fmt.Fprintf(out, `<path d="M%.1f %.1fv4" stroke="#888"/>`+"\n", x, y)
		if last {
			fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="middle">%s s</text>`+"\n", x, y+16, number(v))
		}
	}
}

func (f *frame) mark(out *bytes.Buffer, m Mark, named bool) {
	x, _ := f.place(Point{X: m.X})
	fmt.Fprintf(out, `<path d="M%.1f %.1fv%d" stroke="#c00" stroke-dasharray="3 3"/>`+"\n", x, f.top, panelPlot)
	if named {
		fmt.Fprintf(out, `<text x="%.1f" y="%.1f" fill="#c00">%s</text>`+"\n", x+3, f.top+10, html.EscapeString(m.Name))
	}
}

func (f *frame) curve(out *bytes.Buffer, c Curve, n int) {
	colour := colours[n%len(colours)]
	y := f.top + float64(10+n*lineHeight)
	fmt.Fprintf(out, `<path d="M%d %.1fh16" stroke="%s" stroke-width="2"/><text x="%d" y="%.1f">%s</text>`+"\n", width-right+12, y-4, colour, width-right+33, y, html.EscapeString(c.Name))
	out.WriteString(`<path fill="none" stroke-width="1.5" stroke="` + colour + `" d="`)
	move := byte('M')
	for _, p := range c.Points {
		x, y := f.place(p)
		if math.IsNaN(x+y) || math.IsInf(x+y, 0) {
			move = 'M'
			continue
		}
		fmt.Fprintf(out, "%c%.1f %.1f", move, x, y)
		move = 'L'
	}
	out.WriteString(`"/>` + "\n")
}

// number is a tick's text: no more digits than it takes.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
