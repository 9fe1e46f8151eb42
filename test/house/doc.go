// Package house keeps the rules of the house as tests: who may import whom, how long things may get, which words
// and constructs are not used. A rule that is only written down is not kept; a rule that fails a build is.
//
// The rules read source text (go/ast) and need neither root nor a build. Offences that are tolerated stand in
// allow.txt, one a line, as "rule: subject"; the list may only shrink: an entry that is no longer needed fails too,
// and so does a list longer than maxAllowed. To bring a rule down to fewer exceptions, mend and lower that number.
//
// The reasons for the numbers are in hack/STYLE.md.
package house
