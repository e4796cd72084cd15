// Told prints which guards are taken out.
package main

import (
	"fmt"
	"strings"

	"raptorpack/internal/seeded"
)

func main() {
	var out []string
	for _, guard := range seeded.Guards {
		if seeded.Out(guard) {
			out = append(out, guard)
		}
	}
	fmt.Println(strings.Join(out, " "))
}
