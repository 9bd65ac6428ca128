package kinds

import (
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

// expressions compiles as admission will, so that what can't be evaluated is refused when it is written and not
// found out by a request.
type expressions struct {
	compiler cel.Compiler
	// known are those that are stored already. They may use what only a newer server lets new ones use: otherwise
	// nobody could change such an object after going back.
	known map[string]bool
}

// plain compiles what uses no variables of a policy. Making the compiler costs more than most clusters ever need.
var plain = sync.OnceValue(func() cel.Compiler {
	return cel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

// check reports an expression that is missing or does not compile.
func (e expressions) check(at *field.Path, accessor cel.ExpressionAccessor, options cel.OptionalVariableDeclarations) field.ErrorList {
	expression := accessor.GetExpression()
	if strings.TrimSpace(expression) == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	result := e.compiler.CompileCELExpression(accessor, options, e.mode(expression))
	if result.Error != nil {
		return field.ErrorList{field.Invalid(at, expression, result.Error.Detail)}
	}
	return nil
}

func (e expressions) mode(expression string) environment.Type {
	if e.known[expression] {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

// mostConditions bounds what every request would have to evaluate.
const mostConditions = 64

// conditions say which requests a webhook or a policy is about. They are evaluated before its variables.
func (e expressions) conditions(conditions []admissionregistrationv1.MatchCondition, hasParams bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > mostConditions {
		errs = append(errs, field.TooMany(at, len(conditions), mostConditions))
	}
	e.compiler = plain()
	for i, c := range conditions {
		condition := matchconditions.MatchCondition(c)
		errs = append(errs, check.Needed(at.Index(i).Child("name"), c.Name, validation.IsQualifiedName)...)
		errs = append(errs, e.check(at.Index(i).Child("expression"), &condition, cel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: true})...)
	}
	return append(errs, check.Unique(at, conditions, func(c admissionregistrationv1.MatchCondition) string { return c.Name }, "name")...)
}
