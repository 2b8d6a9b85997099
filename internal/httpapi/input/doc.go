// Package input reads what a request says into Go values: the parameters of its
// path and query, and a JSON body. A Go type and its tags say what is right, and
// the same tags make the documents of an API.
//
// It refuses what the type does not have, so that a name that is misspelled does
// not pass for one that was left out, and it stops at the first fault, so that the
// rest of a hostile body costs nothing. Its errors are *agentsandbox.Error values
// of code invalid_request that name the field. It knows no routes, no statuses and
// no Service.
package input
