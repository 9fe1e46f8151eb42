package compile

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Annotations by which a pod asks for traffic shaping; the network plugin does it.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// Bandwidth reads the two annotations, in bits per second; 0 is none.
func Bandwidth(annotations map[string]string) (ingress, egress int64, err error) {
	if ingress, err = bitRate(annotations, ingressAnnotation); err != nil {
		return 0, 0, err
	}
	egress, err = bitRate(annotations, egressAnnotation)
	return ingress, egress, err
}

// bitRate parses a Kubernetes quantity (decimal number with a suffix such as k, M or Mi) between 1k and 1P.
func bitRate(annotations map[string]string, key string) (int64, error) {
	text, ok := annotations[key]
	if !ok {
		return 0, nil
	}
	bad := fmt.Errorf("annotation %s: %q is not a rate between 1k and 1P: %w", key, text[:min(len(text), 40)], fs.ErrInvalid)
	digits := strings.TrimRight(text, "kKMGTPEi")
	factor := map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}[text[len(digits):]]
	if factor == 0 || digits == "" || strings.Trim(digits, "0123456789.") != "" || len(digits) > 20 {
		return 0, bad
	}
	// Rates are below 2^53: a float64 holds them to the bit.
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, bad
	}
	if v *= factor; v < 1e3 || v > 1e15 {
		return 0, bad
	}
	return int64(v), nil
}
